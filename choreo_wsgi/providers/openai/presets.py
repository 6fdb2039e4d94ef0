"""Providers that speak OpenAI's API and differ in nothing but what the table says of them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from ...chat.items import Json
from ...settings import setting
from ..facts import BUILT_IN
from .provider import OpenAI

_NINE = re.compile(r"[A-Za-z0-9]{9}")


def _preset(type_: str, **members: object) -> type[OpenAI]:
    """Return the class of a type that differs from OpenAI's in some *members*, or in nothing."""
    return type(type_, (OpenAI,), {"type": type_, "facts": BUILT_IN[type_], **members})


XAI = _preset("xai")
OpenRouter = _preset("openrouter")
Groq = _preset("groq", strict=True)
DeepSeek = _preset("deepseek", old_limit=True)
#: Servers of one's own.
VLLM = _preset("vllm", known_apis=("chat", "responses"))
SGLang = _preset("sglang", known_apis=("chat", "responses"))


class Mistral(OpenAI):
    """Mistral's models.

    Usage comes unasked, and ``stream_options`` is refused.  Ids of tool calls are nine letters
    and digits: those of other providers, in a history that began there, are made to fit.
    """

    type = "mistral"
    facts = BUILT_IN["mistral"]
    old_limit = True
    strict = True

    @dataclass(frozen=True)
    class Options(OpenAI.Options):
        """The settings of a section whose type is ``mistral``."""

        usage: bool = setting(False, "ask for usage in streams; it comes unasked")

    def prepare(self, body: dict[str, Json]) -> dict[str, Json]:
        """Return *body* with ids of tool calls that Mistral takes."""
        return {**super().prepare(body), "messages": [*map(_with_short_ids, body["messages"])]}


def _with_short_ids(message: dict[str, Json]) -> dict[str, Json]:
    """Return *message* with the ids of its calls, or of the call it answers, made to fit."""
    made = dict(message)
    if message.get("tool_call_id"):
        made["tool_call_id"] = _short_id(message["tool_call_id"])
    if message.get("tool_calls"):
        made["tool_calls"] = [
            {**call, "id": _short_id(call["id"])} if isinstance(call.get("id"), str) else call
            for call in message["tool_calls"]
        ]
    return made


def _short_id(id: str) -> str:
    """Return *id* if it is nine letters and digits, else nine that depend on it alone.

    So a call and its result get the same, in every turn.
    """
    if _NINE.fullmatch(id):
        return id
    return hashlib.sha256(id.encode("utf-8", "replace")).hexdigest()[:9]
