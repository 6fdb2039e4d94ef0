"""The Messages API: https://docs.anthropic.com/en/api/messages."""

from __future__ import annotations

from functools import partial

from ...chat.answer import AnswerWriter
from ...chat.items import Json, dump
from ...chat.request import ChatRequest, loads_marked
from ...errors import ChoreoError, InvalidRequest
from .. import API
from ..translation import estimate_tokens
from .request import read_request
from .writer import MessageWriter, error_object


def _error(error: ChoreoError) -> tuple[int, bytes]:
    status = 529 if error.status == 503 else error.status  # Anthropic's status for overload
    return status, dump(error_object(error))


def _count(request: ChatRequest) -> dict[str, Json]:
    fields = request.original or {}
    if request.threaded:
        text = "the messages of a thread cannot be counted here: send the whole conversation"
        raise InvalidRequest(text, param="thread", code="thread_unsupported_request")
    others = [fields.get("system"), fields.get("tools")]
    return {"input_tokens": estimate_tokens(fields["messages"], others, request.marks)}


APIS = {
    "messages": API(loads_marked, read_request, MessageWriter, _error),
    "count_tokens": API(
        loads_marked,
        partial(read_request, counting=True),
        lambda request: AnswerWriter(request.model, "count_tokens"),
        _error,
        _count,
    ),
}
