"""Providers with OpenAI's API, whose differences are members of a class or facts in a table."""

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
    """Return a subclass of :class:`OpenAI` for a type, with its facts and these *members*."""
    return type(type_, (OpenAI,), {"type": type_, "facts": BUILT_IN[type_], **members})


XAI = _preset("xai")
OpenRouter = _preset("openrouter")
Groq = _preset("groq", strict=True)
DeepSeek = _preset("deepseek", old_limit=True)
#: Servers that the operator runs.
VLLM = _preset("vllm", known_apis=("chat", "responses"))
SGLang = _preset("sglang", known_apis=("chat", "responses"))


class Mistral(OpenAI):
    """Mistral's models.

    Mistral sends usage unasked and rejects ``stream_options``.  Its ids of tool calls are nine
    letters and digits: ids of other providers, in a history that began there, are replaced.
    """

    type = "mistral"
    facts = BUILT_IN["mistral"]
    old_limit = True
    strict = True

    @dataclass(frozen=True)
    class Options(OpenAI.Options):
        """The settings of a section whose type is ``mistral``."""

        usage: bool = setting(False, "ask for usage in streams; Mistral sends it unasked")

    def prepare(self, body: dict[str, Json]) -> dict[str, Json]:
        """Return *body* with ids of tool calls that Mistral accepts."""
        return {**super().prepare(body), "messages": [*map(_with_short_ids, body["messages"])]}


def _with_short_ids(message: dict[str, Json]) -> dict[str, Json]:
    """Return *message* with short ids for its calls, and for the call that it answers."""
    result = dict(message)
    if message["role"] == "tool":
        result["tool_call_id"] = _short_id(message["tool_call_id"])
    if message["role"] == "assistant" and message.get("tool_calls"):
        result["tool_calls"] = [
            {**call, "id": _short_id(call["id"])} for call in message["tool_calls"]
        ]
    return result


def _short_id(id: str) -> str:
    """Return *id* if it is nine letters and digits, else the first nine digits of its hash.

    So a call and its result have the same id in every turn.
    """
    if _NINE.fullmatch(id):
        return id
    return hashlib.sha256(id.encode("utf-8", "replace")).hexdigest()[:9]
