"""The public APIs, a module each: what a caller sends, and what it gets.

An API reads its request into a :class:`~choreo_wsgi.chat.request.ChatRequest` and writes the
items of an answer as its own events, or as its own document.  So every provider serves every
API.  A module is imported when its API is called for the first time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import ChoreoError

if TYPE_CHECKING:
    from ..chat.answer import AnswerWriter
    from ..chat.items import Json
    from ..chat.request import ChatRequest


def _as_chat(error: ChoreoError) -> tuple[int, bytes]:
    return error.status, error.body()


@dataclass(frozen=True)
class API:
    """A public API; the ``APIS`` of each module here are its own.

    *read* returns the request in a body, or raises InvalidRequest.  *writer* returns what
    writes a new answer to a request.  *error* returns the status and the JSON document that
    tell of an error.  *estimate* returns the document for a provider that has not the API.
    """

    read: Callable[[bytes], ChatRequest]
    writer: Callable[[ChatRequest], AnswerWriter]
    error: Callable[[ChoreoError], tuple[int, bytes]] = _as_chat
    estimate: Callable[[ChatRequest], dict[str, Json]] | None = None


#: The API of each path.
ROUTES = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "responses",
    "/v1/responses/input_tokens": "input_tokens",
    "/v1/responses/compact": "compact",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "count_tokens",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
}
#: The modules of those that are not called as their API.
_MODULES = {
    **dict.fromkeys(("input_tokens", "compact"), "responses"),
    "count_tokens": "messages",
    **dict.fromkeys(("completions", "embeddings"), "passing"),
}


@cache
def load(name: str) -> API:
    """Return the API *name*, as ``chat``."""
    module = import_module(f".{_MODULES.get(name, name)}", __package__)
    api: API = module.APIS[name]
    return api
