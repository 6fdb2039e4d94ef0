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


class XAI(OpenAI):
    """Grok, at xAI."""

    type = "xai"
    facts = BUILT_IN["xai"]


class OpenRouter(OpenAI):
    """Models of many makers, at OpenRouter."""

    type = "openrouter"
    facts = BUILT_IN["openrouter"]


class Groq(OpenAI):
    """Open models at Groq."""

    type = "groq"
    facts = BUILT_IN["groq"]
    strict = True


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
        body = super().prepare(body)
        messages = body.get("messages")
        if not isinstance(messages, list):
            return body
        return {**body, "messages": [_with_short_ids(message) for message in messages]}


def _with_short_ids(message: Json) -> Json:
    """Return *message* with the ids of its calls, or of the call it answers, made to fit."""
    if not isinstance(message, dict):
        return message
    changed: dict[str, Json] = {}
    if isinstance(message.get("tool_call_id"), str):
        changed["tool_call_id"] = _short_id(message["tool_call_id"])
    if isinstance(message.get("tool_calls"), list):
        changed["tool_calls"] = [
            {**call, "id": _short_id(call["id"])} if isinstance(call.get("id"), str) else call
            for call in message["tool_calls"]
        ]
    return {**message, **changed} if changed else message


def _short_id(id: str) -> str:
    """Return *id* if it is nine letters and digits, else nine that depend on it alone.

    So a call and its result get the same, in every turn.
    """
    if _NINE.fullmatch(id):
        return id
    return hashlib.sha256(id.encode("utf-8", "replace")).hexdigest()[:9]


class DeepSeek(OpenAI):
    """DeepSeek's models."""

    type = "deepseek"
    facts = BUILT_IN["deepseek"]
    old_limit = True


class VLLM(OpenAI):
    """A vLLM server of one's own."""

    type = "vllm"
    known_apis = ("chat", "responses")
    facts = BUILT_IN["vllm"]


class SGLang(OpenAI):
    """An SGLang server of one's own."""

    type = "sglang"
    known_apis = ("chat", "responses")
    facts = BUILT_IN["sglang"]
