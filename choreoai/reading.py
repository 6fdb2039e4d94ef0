"""What the events of a stream mean: chunks, errors, the end, and what is not an end.

Pure.  :func:`records` turns bytes into records; a :class:`Reading` takes them one by one and
knows at any point what has been said so far.
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

#: The value of a record that ends a stream as it should.
DONE: Final = None

#: The id of an event (None where it has none) and what it says: a chunk's JSON object,
#: DONE, or the error that stands for it.
Record = tuple[Union[int, None], Union[dict[str, Any], APIError, None]]

T = TypeVar("T", bound=Object)

_parse = json.JSONDecoder().raw_decode

_EVENTS = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:data|event|id|retry)?:")


def records(decoder: Decoder, block: bytes) -> list[Record]:
    """Return the records that *block* completes, up to the one that ends the stream."""
    made: list[Record] = []
    broken = None
    try:
        events = decoder.receive_data(block)
    except DecodeError as error:
        events, broken = error.events, APIError(f"the stream cannot be read: {error}")
    for data, kind, id in events:
        text = data.strip()
        if text or kind == "error":  # without: what several servers keep a stream alive with
            value = _value(text, kind)
            made.append((int(id) if id.isascii() and id.isdigit() else None, value))
            if type(value) is not dict:  # nothing follows
                return made
    return made if broken is None else [*made, (None, broken)]


def _value(text: str, kind: str) -> dict[str, Any] | APIError | None:
    """Return what an event of this *kind* says in its *text*."""
    try:
        value, end = _parse(text)
        value = value if end == len(text) else None
    except (ValueError, RecursionError):
        value = None
    if kind == "error":  # some servers name the event instead of the member
        return frame_error(value if isinstance(value, dict) else text)
    if isinstance(value, dict):
        failed = value.get("error") or "error" in (value.get("type"), value.get("object"))
        return frame_error(value) if failed else value
    if text.startswith("[DONE]"):
        return DONE
    shown = text if len(text) < 100 else text[:100] + "..."
    return APIError(f"the stream holds what is no chunk: {shown!r}", body=text)


def failed(reason: Any) -> APIError | None:
    """Return the error that the finish reason *reason* stands for, None for an answer's end."""
    try:
        finish_reason(reason if isinstance(reason, dict) else str(reason))
    except ProviderError as error:
        return APIError(str(error), code=error.code, type=error.type)
    return None


def object_of(kind: type[T], body: bytes) -> T:
    """Return *body*, an answer, as a *kind*; raises APIError when it is none."""
    try:
        value = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        text = body.decode("utf-8", "replace")
        raise APIError("the server's answer is not JSON", body=text) from error
    if isinstance(value, dict) and value.get("error"):
        raise frame_error(value)  # some servers say so with status 200
    if not isinstance(value, dict):
        raise APIError(f"the server's answer is no {kind.__name__}", body=value)
    return kind.from_dict(value)


def completion_of(body: bytes, n: int) -> ChatCompletion:
    """Return *body*, which answers with *n* choices; raises APIError, also if it says so."""
    if _EVENTS.match(body):  # from a server that always streams
        reading = Reading(n)
        for record in records(Decoder(errors="strict"), body + b"\n\n"):
            reading.take(record)
        if not reading.ended:
            reading.cut("the server's answer is a stream that breaks off")
        return reading.fold.completion()
    made = object_of(ChatCompletion, body)
    choices: Any = made.choices
    if type(choices) is not list or not all(isinstance(choice, Choice) for choice in choices):
        raise APIError("the server's answer is no ChatCompletion", body=made.to_dict())
    for choice in made.choices:
        message = choice.message.__dict__
        if type(message.get("content")) is list:
            reshape(message)
        if choice.finish_reason and (failure := failed(choice.finish_reason)):
            failure.body = made.to_dict()
            raise failure
    return made


class Reading:
    """A stream of *n* choices as far as it was read.

    ``fold`` holds what came, behind the event number *after*.  ``last_event_id`` is the number of
    the last event taken, None before the first.
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

        Raises APIError, or StreamInterruptedError, for an error frame.
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
            raise self.fail(APIError(f"the stream holds what is no chunk: {error}")) from None
        if self.fold.reason is not None and (failure := failed(self.fold.reason)):
            raise self.fail(failure)
        return ChatCompletionChunk.from_dict(value)

    def _end(self) -> None:
        self.ended = True

    def cut(self, why: str) -> None:
        """The connection is over without an end marker.

        That is an end all the same when every choice has its finish_reason; several
        providers close so.  Raises StreamInterruptedError when it is none.
        """
        if not self.fold.finished(self._n):
            raise self.fail(StreamInterruptedError(why))
        self.ended = True

    def fail(self, error: APIError) -> APIError:
        """Return *error* with the answer so far, and keep it: the stream has failed."""
        error.partial_text = self.fold.text()
        error.partial = self.fold.completion()
        self.failure = error
        return error
