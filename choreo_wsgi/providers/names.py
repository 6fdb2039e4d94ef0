"""Names of tools that a provider refuses, made to fit on the way there and mapped back.

OpenAI-compatible servers take ``files.read`` and ``1st``; a conversation that moves to a provider
whose pattern has no room for them would be refused in every turn.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..chat.items import Delta, Item, Json
from ..chat.request import ChatRequest

_ODD = re.compile(r"[^a-zA-Z0-9_-]", re.ASCII)
_STEM = 48  # of 63 that all take; a mark and a hash follow


def fit_names(
    request: ChatRequest, fits: re.Pattern[str] | None
) -> tuple[ChatRequest, dict[str, str]]:
    """Return *request* with names of tools that match *fits* (None: all do), and for each name
    that was made the one it stands for.

    A name always becomes the same one, so that what a provider keeps of a conversation still
    matches.
    """
    names: dict[str, str] = {}
    if fits is None:
        return request, names

    def renamed(tool: Json) -> Json:
        """Return a tool, a call or a choice of one with a name that fits."""
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict):
            return tool
        name = function.get("name")
        if not isinstance(name, str) or fits.fullmatch(name):
            return tool
        made = _made(name)
        names[made] = name
        return {**tool, "function": {**function, "name": made}}

    body = dict(request.body)
    messages = [
        {**message, "tool_calls": list(map(renamed, message["tool_calls"]))}
        if message.get("tool_calls")
        else message
        for message in request.messages
    ]
    body["messages"] = messages
    if body.get("tools"):
        body["tools"] = list(map(renamed, body["tools"]))
    wanted = renamed(body.get("tool_choice"))
    if isinstance(wanted, dict) and wanted.get("type") == "allowed_tools":
        allowed = wanted["allowed_tools"]
        allowed = {**allowed, "tools": list(map(renamed, allowed["tools"]))}
        wanted = {**wanted, "allowed_tools": allowed}
    if wanted is not None:
        body["tool_choice"] = wanted
    return (replace(request, body=body, messages=messages) if names else request), names


def restore_names(items: Iterable[Item], names: Mapping[str, str]) -> None:
    """Give the calls in *items* the names that the caller knows."""
    for item in items:
        if isinstance(item, Delta):
            for call in item.tool_calls:
                call.name = names.get(call.name, call.name)


def _made(name: str) -> str:
    stem = _ODD.sub("_", name)[:_STEM]
    mark = "" if stem[:1].isalpha() else "_"  # Gemini's begin with a letter or that
    return f"{mark}{stem}_{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:10]}"
