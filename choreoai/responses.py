"""The Responses API: its objects, its parameters, and what its events mean.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypedDict

from .errors import APIError, StreamInterruptedError, frame_error
from .objects import Object
from .params import SharedParams
from .reading import Reading

#: The events that end a response; after any other a stream is cut.
_LAST = ("response.completed", "response.incomplete", "response.failed")


class Asked(TypedDict):
    """What every response needs."""

    model: str
    input: Any


class ResponseParams(Asked, SharedParams, total=False):
    """The parameters of responses beside those of :class:`choreoai.params.SharedParams`."""

    background: bool | None
    include: Iterable[str] | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    previous_response_id: str | None
    reasoning: Mapping[str, Any] | None
    text: Mapping[str, Any]
    truncation: Literal["auto", "disabled"] | None


class ResponsePart(Object):
    """A part of a message or of a reasoning: ``output_text``, ``refusal``, ``summary_text`` ..."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None


class ResponseItem(Object):
    """An output item: ``message``, ``reasoning``, ``function_call``, ``custom_tool_call`` ..."""

    id: str = ""
    type: str = ""
    status: str | None = None
    role: str | None = None
    content: list[ResponsePart]
    summary: list[ResponsePart]
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    encrypted_content: str | None = None


class ResponseFailure(Object):
    """Why a response failed, or stayed incomplete (*reason*)."""

    code: str | None = None
    message: str | None = None
    reason: str | None = None


class ResponseUsage(Object):
    """The tokens of a response."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0


class Response(Object):
    """A response, whole or as far as it came; *status* tells."""

    id: str = ""
    model: str = ""
    status: str = ""
    error: ResponseFailure | None = None
    incomplete_details: ResponseFailure | None = None
    output: list[ResponseItem]
    usage: ResponseUsage | None = None
    previous_response_id: str | None = None

    @property
    def output_text(self) -> str:
        """The text of all messages."""
        parts = (part for item in self.output if item.type == "message" for part in item.content)
        return "".join(part.text or "" for part in parts if part.type == "output_text")


class ResponseEvent(Object):
    """An event of a response's stream; which members there are depends on its *type*."""

    type: str = ""
    sequence_number: int = 0
    response: Response | None = None
    item: ResponseItem | None = None
    delta: str | None = None
    output_index: int | None = None


def failure_of(response: Response) -> APIError:
    """Return the error that *response* failed with."""
    error = response.error or ResponseFailure()
    message = error.message or f"the response was {response.status}"
    code = getattr(error, "type", None) or error.code
    return APIError(message, code=code, body=response.to_dict())


class ResponseReading(Reading):
    """A stream of events as far as it was read, from event *first* on."""

    def __init__(self, first: int = 0) -> None:
        super().__init__()
        self._next = first
        #: The response as the last event that holds it had it.
        self.response: Response | None = None

    def _read(self, value: dict[str, Any]) -> ResponseEvent:
        kind, place = value.get("type"), value.get("sequence_number")
        if not isinstance(kind, str):
            raise self.fail(APIError(f"the stream holds what is no event: {value!r}"))
        if kind == "error":
            raise self.fail(frame_error(value))
        if type(place) is int:  # some servers do not count
            if place != self._next:
                text = f"event {self._next} is missing: {place} came"
                raise self.fail(StreamInterruptedError(text))
            self._next = place + 1
        event = ResponseEvent.from_dict(value)
        if isinstance(event.response, Response):
            self.response = event.response
        if kind == "response.output_text.delta" and isinstance(event.delta, str):
            self.fold.take({"choices": [{"delta": {"content": event.delta}}]})
        if kind == "response.failed":
            raise self.fail(failure_of(self.response or Response()))
        self.ended = kind in _LAST
        return event

    def _end(self) -> None:
        if not self.ended:
            self.cut("the stream ended before its last event")
