"""Google's Gemini, through its own API."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from .. import ChatRequest, HTTPProvider, HTTPRequest, Secret, Translator, setting
from ..facts import BUILT_IN, CAPABILITIES
from . import request as gemini_request
from .answer import GeminiTranslator


class Gemini(HTTPProvider):
    """Gemini at Google, or another server with ``streamGenerateContent``."""

    type = "gemini"
    facts = BUILT_IN["gemini"]
    takes_marks = True
    native = frozenset(("n", "max_tokens", "stop"))
    # FunctionDeclaration.name; Vertex AI and older versions allow 63 characters and no colons.
    tool_names = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,62}", re.ASCII)
    too_long = re.compile(r"input token count .{0,200}exceeds the maximum", re.S)

    @dataclass(frozen=True)
    class Options:
        """The settings of a section whose type is ``gemini``."""

        api_key: Secret = setting("", "key, sent as x-goog-api-key")
        base_url: str = setting(
            "https://generativelanguage.googleapis.com", "address, without the version"
        )
        version: str = setting("v1beta", "the API's version, a part of the path")
        capabilities: tuple[str, ...] = setting((), CAPABILITIES)

    def encode(self, request: ChatRequest) -> HTTPRequest:
        """Return ``POST .../models/{model}:streamGenerateContent`` for *request*."""
        options = self.options
        base = f"{options.base_url.rstrip('/')}/{options.version}/models"
        # Without alt=sse the answer is one JSON array.
        url = f"{base}/{quote(request.model, safe='')}:streamGenerateContent?alt=sse"
        headers = {"accept": "text/event-stream", "x-goog-api-key": self.key()}
        body = gemini_request.body(request, self.capabilities(request.model))
        return self.post(url, headers, body, request.marks)

    def translator(self, request: ChatRequest) -> Translator:
        return GeminiTranslator(request.n, self.settings.max_event_bytes, self.new_call_id)
