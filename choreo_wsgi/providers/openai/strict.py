"""Requests of other APIs for servers that refuse what OpenAI's chat does not have.

A caller of chat says what it wants this very provider to get.  One of Messages does not know
who answers: its hints go where they mean something.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ...chat.items import Json
from ...chat.request import ChatRequest
from ..capabilities import requested_effort

#: Of Anthropic's, wherever they stand; OpenAI answers 400 to arguments that it does not know.
_FOREIGN = ("thinking", "cache_control", "thinking_blocks", "is_error", "reasoning_content")
#: The models of OpenAI's that take ``reasoning_effort``.
_REASONING = re.compile(r"o\d|gpt-([5-9]|\d\d)")


def without_hints(request: ChatRequest) -> ChatRequest:
    """Return *request* without Anthropic's hints; thinking becomes an effort where there is one."""
    body = request.body
    effort = requested_effort(request) if _REASONING.match(request.model) else None
    made: dict[str, Json] = {
        **{name: value for name, value in body.items() if name not in _FOREIGN},
        "messages": list(map(_stripped, body["messages"])),
    }
    if "tools" in body:
        made["tools"] = list(map(_stripped, body["tools"]))
    if effort not in (None, "none"):
        made["reasoning_effort"] = effort
    return replace(request, messages=made["messages"], body=made)


def _stripped(holder: dict[str, Json]) -> dict[str, Json]:
    kept = {name: value for name, value in holder.items() if name not in _FOREIGN}
    if isinstance(kept.get("content"), list):
        kept["content"] = list(map(_stripped, kept["content"]))
    if "tool_calls" in kept:
        kept["tool_calls"] = list(map(_stripped, kept["tool_calls"]))
    return kept
