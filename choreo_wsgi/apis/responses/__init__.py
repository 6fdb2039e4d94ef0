"""The Responses API: https://platform.openai.com/docs/api-reference/responses."""

from __future__ import annotations

from ...chat.aside import has_marks
from ...chat.items import Json
from ...chat.request import ChatRequest, loads, loads_marked
from ...errors import ChoreoError
from .. import API
from ..translation import own_param
from .request import NAMES, read_request
from .writer import ResponseWriter

#: The members of chat's parameters that are others here.
_PARAMS = {**NAMES, "input": "messages", "text.format": "response_format", "include": "logprobs"}


def _read(body: bytes) -> ChatRequest:
    fields, marks = loads_marked(body)
    items = fields.get("input")
    if marks and isinstance(items, list) and any(map(_is_looked_into, items)):
        fields, marks = loads(body), {}
    request = read_request(fields)
    request.marks = marks
    return request


def _is_looked_into(item: Json) -> bool:
    """Whether a mark stands where something else is made of the text: in sealed thinking, or in
    the input of a custom tool."""
    told = item if isinstance(item, dict) else {}
    return has_marks(f"{told.get('encrypted_content')}{told.get('input')}")


def _error(error: ChoreoError) -> tuple[int, bytes]:
    error.param = own_param(error.param, _PARAMS)
    return error.status, error.body()


APIS = {"responses": API(_read, ResponseWriter, _error)}
