"""The Responses API: https://platform.openai.com/docs/api-reference/responses."""

from __future__ import annotations

from ...chat.answer import AnswerWriter
from ...chat.request import ChatRequest, loads
from ...errors import ChoreoError
from .. import own_param
from .request import read_request
from .writer import ResponseWriter

#: The parameters of chat that are others here.
_PARAMS = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
    "reasoning_effort": "reasoning.effort",
    "logprobs": "include",
}


class Responses:
    """The API behind ``/v1/responses``."""

    name = "responses"

    def read(self, body: bytes) -> ChatRequest:
        """Return the request in *body*; raises InvalidRequest."""
        return read_request(loads(body))

    def writer(self, request: ChatRequest) -> AnswerWriter:
        """Return what writes a new answer to *request*."""
        assert request.original is not None
        return ResponseWriter(request.original, request.answer_id, request.stream)

    def error(self, error: ChoreoError) -> tuple[int, bytes]:
        """Return the status and the JSON document that tell of *error*."""
        error.param = own_param(error.param, _PARAMS)
        return error.status, error.body()
