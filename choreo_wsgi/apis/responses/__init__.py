"""The Responses API: https://platform.openai.com/docs/api-reference/responses."""

from __future__ import annotations

from collections.abc import Callable

from ...chat.answer import AnswerWriter
from ...chat.items import Json
from ...chat.request import ChatRequest, loads, loads_marked
from ...errors import ChoreoError, InvalidRequest
from .. import API
from ..translation import estimate, own_param
from .request import NAMES, input_items, read_request
from .writer import ResponseWriter

#: The members of chat's parameters that are others here.
_PARAMS = {**NAMES, "input": "messages", "text.format": "response_format", "include": "logprobs"}


def _error(error: ChoreoError) -> tuple[int, bytes]:
    error.param = own_param(error.param, _PARAMS)
    return error.status, error.body()


def _count(request: ChatRequest) -> dict[str, Json]:
    asked = request.original or {}
    for name in ("previous_response_id", "conversation", "prompt"):
        if asked.get(name):
            text = "what is kept elsewhere is not counted here: send all of the input"
            raise InvalidRequest(text, param=name)
    told = [asked.get("instructions"), asked.get("tools")]
    tokens = estimate(input_items(asked), told)
    return {"object": "response.input_tokens", "input_tokens": tokens}


def _aside(
    name: str, missing: str, counted: Callable[[ChatRequest], dict[str, Json]] | None = None
) -> API:
    """Return the API *name* beside that of responses; without it a model has *missing*."""

    def read(body: bytes) -> ChatRequest:
        request = read_request(loads(body), {})
        request.stream = False
        request.native_only = InvalidRequest(missing, param="model")
        return request

    return API(read, lambda request: AnswerWriter(request.model, name), _error, counted)


APIS = {
    "responses": API(lambda body: read_request(*loads_marked(body)), ResponseWriter, _error),
    "input_tokens": _aside("input_tokens", "this model does not count tokens", _count),
    "compact": _aside(
        "compact",
        "this model compacts nothing: send the input as it is, or ask a model to shorten it",
    ),
}
