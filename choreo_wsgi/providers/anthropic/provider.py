"""Anthropic, through its own Messages API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...chat.source import Reply
from ...late import Late
from .. import HTTPProvider, HTTPRequest, Json, Secret, setting
from ..facts import BUILT_IN, CAPABILITIES

if TYPE_CHECKING:
    from ...chat.answer import AnswerWriter
    from ...chat.request import ChatRequest
    from .. import Translator, native
    from . import answer as anthropic_answer
    from . import request as anthropic_request
else:
    anthropic_answer = Late("choreo_wsgi.providers.anthropic.answer")
    native = Late("choreo_wsgi.providers.native")
    anthropic_request = Late("choreo_wsgi.providers.anthropic.request")


class Anthropic(HTTPProvider):
    """Claude at Anthropic, or another server with the Messages API."""

    type = "anthropic"
    facts = BUILT_IN["anthropic"]
    takes_marks = True
    blank_stops = False
    apis = frozenset(("messages", "count_tokens"))
    tool_names = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)  # Anthropic allows 128, OpenAI 64
    too_long = re.compile(r"prompt is too long|exceed context limit")

    @dataclass(frozen=True)
    class Options:
        """The settings of a section whose type is ``anthropic``."""

        api_key: Secret = setting("", "key, sent as x-api-key")
        base_url: str = setting("https://api.anthropic.com", "address, without /v1")
        # The next version, 2026-10-21, refuses temperature and top_p.
        version: str = setting("2023-06-01", "the header anthropic-version")
        beta: str = setting("", "the header anthropic-beta, if any")
        # Models of 2025 and later allow at least four times as many.
        max_tokens: int = setting(16384, "max_tokens of requests that set none", minimum=1)
        capabilities: tuple[str, ...] = setting((), CAPABILITIES)

    def answer(self, request: ChatRequest, writer: AnswerWriter) -> Reply:
        """Start the answer: the upstream's own events for the Messages API, else items."""
        if writer.api not in self.apis:
            return super().answer(request, writer)
        body = anthropic_request.forwarded(request)
        sent = self._post(request, native.DIALECTS[writer.api].path, body)
        unfold = anthropic_answer.AnthropicTranslator.unfold
        return native.forward(self, request, writer, sent, unfold=unfold)

    def encode(self, request: ChatRequest) -> HTTPRequest:
        """Return ``POST /v1/messages`` for *request*."""
        caps = self.capabilities(request.model)
        body = anthropic_request.body(request, self.options.max_tokens, caps)
        return self._post(request, "/messages", body)

    def _post(self, request: ChatRequest, path: str, body: dict[str, Json]) -> HTTPRequest:
        options = self.options
        headers = {
            "accept": "text/event-stream",
            "anthropic-version": request.version or options.version,
            "x-api-key": self.key(),
        }
        if beta := ",".join(filter(None, (options.beta, request.betas))):
            headers["anthropic-beta"] = beta
        url = f"{options.base_url.rstrip('/')}/v1{path}"
        return self.post(url, headers, body, request.marks)

    def translator(self, request: ChatRequest) -> Translator:
        return anthropic_answer.AnthropicTranslator(self.settings.max_event_bytes)

    def meaning(
        self, status: int, headers: Mapping[str, str], message: str, error: Mapping[str, Json]
    ) -> tuple[int, str | None]:
        """Return the status and code of an error; an empty account is a 400 at Anthropic."""
        if status == 400 and "credit balance is too low" in message:
            return 402, None
        details = error.get("details")
        code = details.get("error_code") if isinstance(details, dict) else None
        if isinstance(code, str) and code.startswith("thread_"):
            return status, code
        return super().meaning(status, headers, message, error)
