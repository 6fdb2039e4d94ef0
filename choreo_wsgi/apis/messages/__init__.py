"""The Messages API: https://docs.anthropic.com/en/api/messages."""

from __future__ import annotations

from ...chat.answer import AnswerWriter
from ...chat.items import dump
from ...chat.request import ChatRequest, loads
from ...errors import ChoreoError
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
