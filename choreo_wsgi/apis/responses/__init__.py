"""The Responses API: https://platform.openai.com/docs/api-reference/responses."""

from __future__ import annotations

from ...chat.request import ChatRequest, loads_marked
from ...errors import ChoreoError
from .. import API
from ..translation import own_param
from .request import NAMES, read_request
from .writer import ResponseWriter

#: The members of chat's parameters that are others here.
_PARAMS = {**NAMES, "input": "messages", "text.format": "response_format", "include": "logprobs"}


def _read(body: bytes) -> ChatRequest:
    fields, marks = loads_marked(body)
    return read_request(fields, marks=marks)


def _error(error: ChoreoError) -> tuple[int, bytes]:
    error.param = own_param(error.param, _PARAMS)
    return error.status, error.body()


APIS = {"responses": API(_read, ResponseWriter, _error)}
