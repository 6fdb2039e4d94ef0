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

    def renamed(value: Json) -> Json:
        """Return tools, calls or a choice, whatever they are in, with names that fit."""
        if isinstance(value, list):
            return list(map(renamed, value))
        if not isinstance(value, dict):
            return value
        function = value.get("function")
        if not isinstance(function, dict):
            return {key: renamed(inner) for key, inner in value.items()}
        name = function.get("name")
        if not isinstance(name, str) or fits.fullmatch(name):
            return value
        stem = _ODD.sub("_", name)[:_STEM]
        mark = "" if stem[:1].isalpha() else "_"  # Gemini's begin with a letter or that
        made = f"{mark}{stem}_{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:10]}"
        names[made] = name
        return {**value, "function": {**function, "name": made}}

    messages = [
        {**message, "tool_calls": renamed(message["tool_calls"])}
        if message.get("tool_calls")
        else message
        for message in request.messages
    ]
    chosen = {name: renamed(request.body.get(name)) for name in ("tools", "tool_choice")}
    if not names:
        return request, names
    body = {**request.body, **{name: one for name, one in chosen.items() if one is not None}}
    return replace(request, body={**body, "messages": messages}, messages=messages), names


def restore_names(items: Iterable[Item], names: Mapping[str, str]) -> None:
    """Give the calls in *items* the names that the caller knows."""
    for item in items:
        if isinstance(item, Delta):
            for call in item.tool_calls:
                call.name = names.get(call.name, call.name)
