"""The Messages API: https://docs.anthropic.com/en/api/messages."""

from __future__ import annotations

from ...chat.answer import AnswerWriter
from ...chat.items import Json, dump
from ...chat.request import ChatRequest, loads, loads_marked
from ...errors import ChoreoError
from .. import API
from .request import read_request
from .writer import MessageWriter, error_object


def _read(body: bytes) -> ChatRequest:
    fields, marks = loads_marked(body)
    return read_request(fields, marks=marks)


def _error(error: ChoreoError) -> tuple[int, bytes]:
    status = 529 if error.status == 503 else error.status  # its own for too much work
    return status, dump(error_object(error))


def estimate(request: ChatRequest) -> dict[str, int]:
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
    return {"input_tokens": tokens}


APIS = {
    "messages": API(_read, MessageWriter, _error),
    "count_tokens": API(
        lambda body: read_request(loads(body), counting=True),
        lambda request: AnswerWriter(request.model, "count_tokens"),
        _error,
        estimate,
    ),
}
