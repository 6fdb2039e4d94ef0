"""The public APIs, a module each: what a caller sends, and what it gets.

An API reads its request into a :class:`~choreo_wsgi.chat.request.ChatRequest` and writes the
items of an answer as its own events, or as its own document.  So every provider serves every
API.  A module is imported when its API is called for the first time.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Protocol

from ..chat.answer import AnswerWriter
from ..chat.request import ChatRequest
from ..errors import ChoreoError


class API(Protocol):
    """What a module of this folder offers as its class."""

    name: str

    def read(self, body: bytes) -> ChatRequest:
        """Return the request in *body*; raises InvalidRequest."""

    def writer(self, request: ChatRequest) -> AnswerWriter:
        """Return what writes a new answer to *request*."""

    def error(self, error: ChoreoError) -> tuple[int, bytes]:
        """Return the status and the JSON document that tell of *error*."""


_CLASSES = {"chat": "ChatCompletions", "responses": "Responses", "messages": "Messages"}


@cache
def load(name: str) -> API:
    """Return the API *name*, as ``chat``."""
    api: API = getattr(import_module(f".{name}", __package__), _CLASSES[name])()
    return api
