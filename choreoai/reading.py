"""The meaning of a stream's events: chunks, errors, the end, and a cut.

No I/O.  :func:`records` decodes bytes into records; a :class:`Reading` takes them one by one and
holds the answer so far.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, TypeVar, Union

from choreo_wsgi.chat.endings import finish_reason
from choreo_wsgi.chat.shapes import reshape
from choreo_wsgi.errors import ProviderError, UpstreamInvalid
from choreo_wsgi.sse import DecodeError, Decoder

from .errors import APIError, StreamInterruptedError, frame_error
from .folding import Fold
from .models import ChatCompletion, ChatCompletionChunk, Choice
from .objects import Object

#: The value of a record that ends a stream regularly.
DONE: Final = None

#: The id of an event (None if it has none) and its value: a chunk's JSON object, DONE, or an error.
Record = tuple[Union[int, None], Union[dict[str, Any], APIError, None]]

T = TypeVar("T", bound=Object)

_parse = json.JSONDecoder().raw_decode

_EVENTS = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:data|event|id|retry)?:")


def records(decoder: Decoder, block: bytes) -> list[Record]:
    """Return the records that *block* completes, up to the one that ends the stream."""
    result: list[Record] = []
    broken = None
    try:
        events = decoder.receive_data(block)
    except DecodeError as error:
        events, broken = error.events, APIError(f"the stream cannot be read: {error}")
    for data, kind, id in events:
        text = data.strip()
        if text or kind == "error":  # several servers send empty events to keep a stream alive
            value = _value(text, kind)
            result.append((int(id) if id.isascii() and id.isdigit() else None, value))
            if type(value) is not dict:  # nothing may follow
                return result
    return result if broken is None else [*result, (None, broken)]


def _value(text: str, kind: str) -> dict[str, Any] | APIError | None:
    """Return the value of a record for an event of this *kind* with the data *text*."""
    try:
        value, end = _parse(text)
        value = value if end == len(text) else None
    except (ValueError, RecursionError):
        value = None
    if kind == "error":  # some servers use the event's name, not the member "error"
        return frame_error(value if isinstance(value, dict) else text)
    if isinstance(value, dict):
        failed = value.get("error") or "error" in (value.get("type"), value.get("object"))
        return frame_error(value) if failed else value
    if text.startswith("[DONE]"):
        return DONE
    shown = text if len(text) < 100 else text[:100] + "..."
    return APIError(f"the stream holds an event that is not a chunk: {shown!r}", body=text)


def finish_error(reason: Any) -> APIError | None:
    """Return the error for a finish *reason* that means failure, None for any other."""
    try:
        finish_reason(reason if isinstance(reason, dict) else str(reason))
    except ProviderError as error:
        return APIError(str(error), code=error.code, type=error.type)
    return None


def object_of(kind: type[T], body: bytes) -> T:
    """Return the object of *kind* in the answer *body*; raises APIError if it is not one."""
    try:
        value = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        text = body.decode("utf-8", "replace")
        raise APIError("the server's answer is not JSON", body=text) from error
    if isinstance(value, dict) and value.get("error") and value.get("object") != "response":
        raise frame_error(value)  # some servers report errors with status 200
    if not isinstance(value, dict):
        raise APIError(f"the server's answer is not a {kind.__name__}", body=value)
    return kind.from_dict(value)


def completion_of(body: bytes, n: int) -> ChatCompletion:
    """Return the completion of *n* choices in *body*; raises APIError if it is none or failed."""
    if _EVENTS.match(body):  # the server always streams
        reading = Reading(n)
        for record in records(Decoder(errors="strict"), body + b"\n\n"):
            reading.take(record)
        if not reading.ended:
            reading.cut("the server's answer is a stream that was cut")
        return reading.fold.completion()
    result = object_of(ChatCompletion, body)
    choices: Any = result.choices
    if type(choices) is not list or {*map(type, choices)} != {Choice}:  # none, or other values
        raise APIError("the server's answer is not a ChatCompletion", body=result.to_dict())
    for choice in result.choices:
        message = choice.message.__dict__
        if type(message.get("content")) is list:
            reshape(message)
        if choice.finish_reason and (failure := finish_error(choice.finish_reason)):
            failure.body = result.to_dict()
            raise failure
    return result


class Reading:
    """A stream of *n* choices as far as it was read.

    ``fold`` holds the answer so far, from the event that follows number *after*.
    ``last_event_id`` is the number of the last event read, None before the first.
    """

    def __init__(self, n: int = 1, after: int = 0) -> None:
        self.after = after
        self.last_event_id: int | None = None
        self.ended = False
        self.failure: Exception | None = None
        self._n = n
        self.fold = Fold()

    def take(self, record: Record) -> Any:
        """Return the chunk in *record*, or None if it ends the stream.

        Raises APIError or StreamInterruptedError for an error frame or an early end marker.
        """
        number, value = record
        if number is not None:
            self.last_event_id = number
        if type(value) is dict:
            return self._read(value)
        if isinstance(value, APIError):
            raise self.fail(value)
        self._end()
        return None

    def _read(self, value: dict[str, Any]) -> Any:
        try:
            self.fold.take(value)
        except (AttributeError, TypeError, UpstreamInvalid) as error:
            raise self.fail(APIError(f"the stream holds an invalid chunk: {error}")) from None
        if self.fold.reason is not None and (failure := finish_error(self.fold.reason)):
            raise self.fail(failure)
        return ChatCompletionChunk.from_dict(value)

    def _end(self) -> None:
        # The rule of the server's Normaliser: the end marker stands for missing finish reasons,
        # but the answer must have begun.
        if not (self.fold.finish() or self.after):
            raise self.fail(StreamInterruptedError("the stream ended before its answer began"))
        self.ended = True

    def cut(self, why: str) -> None:
        """Accept or reject the end of a connection without an end marker.

        It is the answer's end if every choice has its finish_reason: several providers send no
        end marker.  Raises StreamInterruptedError with the message *why* if it is not.
        """
        if not self.fold.finished(self._n):
            raise self.fail(StreamInterruptedError(why))
        self.ended = True

    def fail(self, error: APIError) -> APIError:
        """Store *error* as the failure of this stream, add the answer so far, and return it."""
        error.partial_text = self.fold.text()
        error.partial = self.fold.completion()
        self.failure = error
        return error
