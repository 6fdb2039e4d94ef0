"""The public APIs, a module each: what a caller sends, and what it gets.

An API reads its request into a :class:`~choreo_wsgi.chat.request.ChatRequest` and writes the
items of an answer as its own events, or as its own document.  So every provider serves every
API.  A module is imported when its API is called for the first time.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from ..errors import ChoreoError

if TYPE_CHECKING:
    from ..chat.answer import AnswerWriter
    from ..chat.request import ChatRequest


class API(Protocol):
    """What a module of this folder offers as its class."""

    name: str

    def read(self, body: bytes) -> ChatRequest:
        """Return the request in *body*; raises InvalidRequest."""

    def writer(self, request: ChatRequest) -> AnswerWriter:
        """Return what writes a new answer to *request*."""

    def error(self, error: ChoreoError) -> tuple[int, bytes]:
        """Return the status and the JSON document that tell of *error*."""


#: The path of each API.
ROUTES = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "count_tokens",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
}
#: The module of each API here, and its class.
_WHERE = {
    "chat": ("chat", "ChatCompletions"),
    "responses": ("responses", "Responses"),
    "messages": ("messages", "Messages"),
    "count_tokens": ("messages", "CountTokens"),
    "completions": ("passing", "LegacyCompletions"),
    "embeddings": ("passing", "Embeddings"),
}


def own_param(param: str | None, names: Mapping[str, str]) -> str | None:
    """Return what an API that calls chat's parameters *names* calls the *param* of an error."""
    return names.get((param or "").partition("[")[0].partition(".")[0], param)


@cache
def load(name: str) -> API:
    """Return the API *name*, as ``chat``."""
    module, kind = _WHERE[name]
    api: API = getattr(import_module(f".{module}", __package__), kind)()
    return api
