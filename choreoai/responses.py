"""The Responses API: its objects, its parameters, and what its events mean.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union

from .errors import APIError, StreamInterruptedError
from .objects import Object, build
from .params import CallOptions
from .reading import Reading, Record

_Dict = Mapping[str, Any]

#: The events that end a response; after any other a stream is cut.
_LAST = ("response.completed", "response.incomplete", "response.failed")


class ResponseParams(CallOptions, total=False):
    """The parameters of the API, named as in OpenAI's reference, beside model and input."""

    background: bool | None
    include: Iterable[str] | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: Mapping[str, str] | None
    parallel_tool_calls: bool | None
    previous_response_id: str | None
    prompt_cache_key: str
    prompt_cache_retention: Literal["in_memory", "24h"] | None
    reasoning: _Dict | None
    safety_identifier: str
    service_tier: str | None
    store: bool | None
    stream_options: _Dict | None
    temperature: float | None
    text: _Dict
    tool_choice: Union[Literal["none", "auto", "required"], _Dict]
    tools: Iterable[Any]
    top_logprobs: int | None
    top_p: float | None
    truncation: Literal["auto", "disabled"] | None
    user: str


RESPONSE_PARAMS = frozenset(ResponseParams.__annotations__)


class ResponsePart(Object):
    """A part of a message or of a reasoning: ``output_text``, ``refusal``, ``summary_text`` ..."""

    type: str
    text: str | None = None
    refusal: str | None = None


class ResponseItem(Object):
    """An output item: ``message``, ``reasoning``, ``function_call``, ``custom_tool_call`` ..."""

    id: str
    type: str
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

    input_tokens: int
    output_tokens: int
    total_tokens: int


class Response(Object):
    """A response, whole or as far as it came; *status* tells."""

    id: str
    model: str
    status: str
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

    type: str
    sequence_number: int
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

    def __init__(self, first: int | None = 0) -> None:
        super().__init__()
        self._next = first
        self._text: list[str] = []
        #: The response as the last event that holds it had it.
        self.response: Response | None = None

    def take(self, record: Record) -> Any:
        """Return the event in *record*.

        Raises APIError for a response that failed, and StreamInterruptedError for a gap.
        """
        number, value = record
        if number is not None:
            self.last_event_id = number
        if isinstance(value, APIError):
            raise self.fail(value)
        if value is None or not isinstance(value.get("type"), str):
            raise self.fail(APIError(f"the stream holds what is no event: {value!r}"))
        event = build(ResponseEvent, value)
        if self._next is not None and event.sequence_number != self._next:
            text = f"event {self._next} is missing: {event.sequence_number} came"
            raise self.fail(StreamInterruptedError(text))
        self._next = event.sequence_number + 1
        if event.response is not None:
            self.response = event.response
        if event.type == "response.output_text.delta":
            self._text.append(event.delta or "")
        if event.type == "response.failed":
            raise self.fail(failure_of(event.response or Response()))
        self.ended = event.type in _LAST
        return event

    def cut(self, why: str) -> None:
        """Raise StreamInterruptedError: the connection is over before the last event."""
        raise self.fail(StreamInterruptedError(why))

    def fail(self, error: APIError) -> APIError:
        """Return *error* with the text so far, and keep it: the stream has failed."""
        error.partial_text = self.partial_text
        self.failure = error
        return error

    @property
    def partial_text(self) -> str:
        """The text so far."""
        return "".join(self._text)
