"""The public APIs, a module each: their requests, their events and their documents.

An API reads its request into a :class:`~choreo_wsgi.chat.request.ChatRequest` and writes the
items of an answer as its own events, or as its own document.  So every provider serves every
API.  A module is imported at the first call of its API.
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
    from ..chat.items import Json, Marks
    from ..chat.request import ChatRequest


def _as_chat(error: ChoreoError) -> tuple[int, bytes]:
    return error.status, error.body()


@dataclass(frozen=True)
class API:
    """A public API; each module lists its own in ``APIS``.

    *parse* reads a request body and *request* its object, with marks; both raise InvalidRequest.
    *writer* returns a new writer for the answer to a request, *error* the status and the document
    of an error, and *estimate* the answer's document if the provider does not support the API.
    *repeats* returns how many bytes of a request the answer repeats in several events.
    """

    parse: Callable[[bytes], tuple[dict[str, Json], Marks]]
    request: Callable[[dict[str, Json], Marks], ChatRequest]
    writer: Callable[[ChatRequest], AnswerWriter]
    error: Callable[[ChoreoError], tuple[int, bytes]] = _as_chat
    estimate: Callable[[ChatRequest], dict[str, Json]] | None = None
    repeats: Callable[[ChatRequest], int] = lambda request: 0

    def read(self, body: bytes) -> ChatRequest:
        """Return the request in *body*; raises InvalidRequest."""
        return self.request(*self.parse(body))


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
#: The modules of the APIs whose module has another name.
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
