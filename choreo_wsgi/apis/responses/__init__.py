"""The Responses API: https://platform.openai.com/docs/api-reference/responses."""

from __future__ import annotations

from ...chat.request import loads
from ...errors import ChoreoError
from .. import API
from ..translation import own_param
from .request import NAMES, read_request
from .writer import ResponseWriter

#: The members of chat's parameters that are others here.
_PARAMS = {**NAMES, "input": "messages", "text.format": "response_format", "include": "logprobs"}


def _error(error: ChoreoError) -> tuple[int, bytes]:
    error.param = own_param(error.param, _PARAMS)
    return error.status, error.body()


APIS = {"responses": API(lambda body: read_request(loads(body)), ResponseWriter, _error)}
