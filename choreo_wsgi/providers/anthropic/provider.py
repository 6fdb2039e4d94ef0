"""Anthropic, through its own Messages API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...chat.items import Json, dump
from ...chat.request import ChatRequest
from ...settings import Secret, Settings, setting
from ...upstream import HTTPRequest
from ..capabilities import capabilities, overrides
from ..facts import BUILT_IN
from ..http import HTTPProvider, Translator
from . import request as anthropic_request
from .answer import STATUSES, AnthropicTranslator

_TOO_LONG = re.compile(r"prompt is too long|exceed context limit")


class Anthropic(HTTPProvider):
    """Claude at Anthropic, or whatever else speaks the Messages API."""

    type = "anthropic"
    facts = BUILT_IN["anthropic"]

    @dataclass(frozen=True)
    class Options:
        """The settings of a section whose type is ``anthropic``."""

        api_key: Secret = setting("", "key, sent as x-api-key")
        base_url: str = setting("https://api.anthropic.com", "address, without /v1")
        # The next version, 2026-10-21, takes no temperature and no top_p.
        version: str = setting("2023-06-01", "the header anthropic-version")
        beta: str = setting("", "the header anthropic-beta, if any")
        # The smallest ceiling of the models of 2025 and later is four times as high.
        max_tokens: int = setting(16384, "max_tokens of requests that set none", minimum=1)
        capabilities: tuple[str, ...] = setting(
            (), "what models take, before the table: PATTERN NAME=VALUE ..., comma separated"
        )

    def __init__(self, name: str, options: Mapping[str, str], settings: Settings) -> None:
        super().__init__(name, options, settings)
        self.overrides = overrides(self.options.capabilities)

    def stops(self, request: ChatRequest) -> tuple[str, ...]:
        """Return the stop strings that Claude refuses: those without a visible character."""
        return tuple(text for text in request.stop if not text.strip())

    def encode(self, request: ChatRequest) -> HTTPRequest:
        """Return ``POST /v1/messages`` for *request*."""
        options = self.options
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream",
            "anthropic-version": options.version,
            "x-api-key": self.key(),
        }
        if options.beta:
            headers["anthropic-beta"] = options.beta
        able = capabilities(request.model, self.overrides)
        body = dump(anthropic_request.body(request, options.max_tokens, able))
        return HTTPRequest("POST", f"{options.base_url.rstrip('/')}/v1/messages", headers, body)

    def translator(self, request: ChatRequest) -> Translator:
        """Return what reads the answer's events."""
        return AnthropicTranslator(self.settings.max_event_bytes)

    def meaning(
        self, status: int, headers: Mapping[str, str], message: str, error: Mapping[str, Json]
    ) -> tuple[int, str | None]:
        """Return the status that the error's type stands for, and our code for long prompts."""
        kind = error.get("type")
        if isinstance(kind, str):
            status = STATUSES.get(kind, status)
        if status in (400, 413) and _TOO_LONG.search(message):
            return 400, "context_length_exceeded"
        return status, None
