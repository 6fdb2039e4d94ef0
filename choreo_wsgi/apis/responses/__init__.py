"""The Responses API: https://platform.openai.com/docs/api-reference/responses."""

from __future__ import annotations

from collections.abc import Callable

from ...chat.answer import AnswerWriter
from ...chat.items import Json, Marks
from ...chat.request import ChatRequest, loads_marked
from ...errors import ChoreoError, InvalidRequest
from .. import API
from ..translation import api_param, estimate_tokens
from .request import NAMES, input_items, read_request, repeated_size
from .writer import ResponseWriter

#: Chat's parameters by the names that they have in this API.
_PARAMS = {**NAMES, "input": "messages", "text.format": "response_format", "include": "logprobs"}


def _error(error: ChoreoError) -> tuple[int, bytes]:
    error.param = api_param(error.param, _PARAMS)
    return error.status, error.body()


def _count(request: ChatRequest) -> dict[str, Json]:
    fields = request.original or {}
    for name in ("previous_response_id", "conversation", "prompt"):
        if fields.get(name):
            text = "stored input cannot be counted here: send the whole input in the request"
            raise InvalidRequest(text, param=name)
    others = [fields.get("instructions"), fields.get("tools")]
    tokens = estimate_tokens(input_items(fields), others, request.marks)
    return {"object": "response.input_tokens", "input_tokens": tokens}


def _side_api(
    name: str, missing: str, estimate: Callable[[ChatRequest], dict[str, Json]] | None = None
) -> API:
    """Return the API *name*; *missing* is the error text for models that do not support it."""

    def read(fields: dict[str, Json], marks: Marks) -> ChatRequest:
        request = read_request(fields, marks)
        request.stream = False
        request.native_only = InvalidRequest(missing, param="model")
        return request

    def writer(request: ChatRequest) -> AnswerWriter:
        return AnswerWriter(request.model, name)

    return API(loads_marked, read, writer, _error, estimate)


APIS = {
    "responses": API(loads_marked, read_request, ResponseWriter, _error, repeats=repeated_size),
    "input_tokens": _side_api("input_tokens", "this model does not count tokens", _count),
    "compact": _side_api("compact", "this model cannot compact input: send the input as it is"),
}
