"""The Messages API: https://docs.anthropic.com/en/api/messages."""

from __future__ import annotations

from ...chat.answer import AnswerWriter
from ...chat.items import Json, dump
from ...chat.request import ChatRequest, loads
from ...errors import ChoreoError
from ..passing import PassingWriter
from .request import read_request
from .writer import MessageWriter, error_object, error_status


class Messages:
    """The API behind ``/v1/messages``."""

    name = "messages"

    def read(self, body: bytes) -> ChatRequest:
        """Return the request in *body*; raises InvalidRequest."""
        return read_request(loads(body))

    def writer(self, request: ChatRequest) -> AnswerWriter:
        """Return what writes a new answer to *request*."""
        return MessageWriter(request.model, request.stream)

    def error(self, error: ChoreoError) -> tuple[int, bytes]:
        """Return the status and the JSON document that tell of *error*."""
        return error_status(error), dump(error_object(error))


class CountTokens(Messages):
    """The API behind ``/v1/messages/count_tokens``."""

    name = "count_tokens"

    def read(self, body: bytes) -> ChatRequest:
        """Return the request in *body*, which needs no ``max_tokens``; raises InvalidRequest."""
        return read_request(loads(body), counting=True)

    def writer(self, request: ChatRequest) -> AnswerWriter:
        """Return what passes the provider's own count on."""
        return PassingWriter(self.name, request.model)

    def estimate(self, request: ChatRequest) -> int:
        """Return about how many tokens *request* has, for a provider that does not count.

        Four bytes of UTF-8 count as a token, a message as four more, and a picture or a
        document as 1,600, Anthropic's figure for a picture of the largest size.
        """
        asked = request.original or {}
        tokens = 4 * len(asked["messages"])
        waiting: list[Json] = [asked.get("system"), asked["messages"], asked.get("tools")]
        while waiting:
            value = waiting.pop()
            if isinstance(value, str):
                tokens += (len(value.encode("utf-8", "replace")) + 3) // 4
            elif isinstance(value, dict) and "source" in value:
                tokens += 1600
            elif isinstance(value, dict):
                waiting += value.values()
            elif isinstance(value, list):
                waiting += value
        return tokens
