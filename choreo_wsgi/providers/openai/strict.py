"""Removes Anthropic's members from requests for servers that reject unknown members.

Only requests of other APIs, such as Messages, are changed: their callers cannot know which
provider answers.  A chat request is forwarded as it is.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ...chat.items import Json
from ...chat.request import ChatRequest
from ..capabilities import requested_effort

#: Anthropic's members, in any object; OpenAI answers 400 to members that it does not know.
_FOREIGN = ("thinking", "cache_control", "thinking_blocks", "is_error", "reasoning_content")
#: The models of OpenAI that accept ``reasoning_effort``.
_REASONING = re.compile(r"o\d|gpt-([5-9]|\d\d)")


def without_foreign_members(request: ChatRequest) -> ChatRequest:
    """Return *request* without Anthropic's members.

    ``thinking`` becomes ``reasoning_effort`` for models that accept it.
    """
    body = {name: value for name, value in request.body.items() if name not in _FOREIGN}
    for name in ("messages", "tools"):
        if name in body:
            body[name] = list(map(_stripped, body[name]))
    effort = requested_effort(request) if _REASONING.match(request.model) else None
    if effort not in (None, "none"):
        body["reasoning_effort"] = effort
    return replace(request, body=body)


def _stripped(holder: dict[str, Json]) -> dict[str, Json]:
    kept = {name: value for name, value in holder.items() if name not in _FOREIGN}
    if isinstance(kept.get("content"), list):
        kept["content"] = list(map(_stripped, kept["content"]))
    if "tool_calls" in kept:
        kept["tool_calls"] = list(map(_stripped, kept["tool_calls"]))
    return kept
