"""Reading an OpenAI-compatible stream: whole events, and the chunk in the data of each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from ... import sse
from ...chat.items import Json, dump
from ...errors import ChoreoError, UpstreamInvalid
from ...ids import keep
from ...late import Late
from ..reading import find_error, most_values, parse_json, parse_object, unwrapped

if TYPE_CHECKING:
    from .. import failures
    from . import joined
else:
    failures = Late("choreo_wsgi.providers.failures")
    joined = Late("choreo_wsgi.providers.openai.joined")

#: The end marker; servers also send it twice, in quotes, in lower case or without brackets.
DONE = re.compile(rb'["\[ ]*DONE\b', re.I)
#: The data of keep-alive events, sent by servers that do not use comments for that.
_KEEP_ALIVE = re.compile(rb'(:.*|"?(ping|heart-?beat|keep-?alive)"?)?', re.I)
#: Bytes of invalid data that an error message quotes.
_SHOWN = 200
#: Bytes of the longest error that is read outside of an event's data.
_LONGEST = 64 * 1024
_NULL_USAGE = re.compile(
    rb',[ \t]*"usage"[ \t]*:[ \t]*null(?=[ \t]*[,}])|"usage"[ \t]*:[ \t]*null[ \t]*,[ \t]*'
)
#: Its usual place, tried first: the search costs as much as ten other steps of a first event.
_LAST_MEMBER = b',"usage":null}'
#: An escaped letter of "usage".
_ESCAPED_LETTER = re.compile(rb"\\u00(?:7[35]|6[157])")


def read_chunk(data: bytes, event: str = "") -> dict[str, Json] | None:
    """Return the chunk in *data*, of an event of the type *event*.

    The chunk is empty for a keep-alive, None for the end marker.  Raises the error that the event
    reports, and UpstreamInvalid for data that is no chunk.
    """
    if not data.startswith(b"{"):
        if DONE.match(data):
            return None
        if _KEEP_ALIVE.fullmatch(data):
            return {}
    try:
        chunk = parse_json(data, most_values(data))
    except UpstreamInvalid as error:
        shown = data[:_SHOWN].decode("utf-8", "replace")
        if event == "error":
            raise failures.provider_error(shown) from None
        raise UpstreamInvalid(f"{error.message}: {shown}") from None
    failure = chunk if event == "error" else find_error(chunk)
    if failure is not None:
        raise failures.provider_error(failure)
    if not isinstance(chunk, dict):
        raise UpstreamInvalid("the provider sent an event that is not a JSON object")
    return chunk


def read_chunks(data: bytes, event: str = "") -> Iterator[tuple[bytes, dict[str, Json] | None]]:
    """Yield the JSON and the value of each chunk in *data*; the rest is as for :func:`read_chunk`.

    Some servers join several chunks in one event, see :mod:`.joined`.
    """
    try:
        chunk = read_chunk(data, event)
    except UpstreamInvalid:
        several = joined.events_in(data)
        if not several:
            raise
        yield from ((one, read_chunk(one)) for one in several)
    else:
        inner = unwrapped(chunk)
        yield (data if inner is chunk else dump(inner)), inner


class EventReader(sse.Decoder):
    """A decoder that rejects invalid UTF-8 and reads the field ``error:``.

    Older versions of llama.cpp send a line ``error: {...}``, which the standard ignores.
    """

    def __init__(self, max_event_bytes: int) -> None:
        super().__init__(max_event_bytes, errors="strict")
        self.error: ChoreoError | None = None
        #: The data of long events, which stay bytes, by the strings in their place.
        self.kept: dict[str, bytes] = {}
        self.shorten = partial(keep, self.kept)

    def data(self, event: sse.Event) -> bytes:
        """Return the data of *event*."""
        kept = self.kept.pop(event.data, None)
        return event.data.strip().encode() if kept is None else kept.strip()

    def unknown(self, line: bytes) -> None:
        """Store the provider's error from *line*: an ``error:`` field or bare JSON."""
        if line.startswith((b"error:", b"{")) and self.error is None and not line[_LONGEST:]:
            reported = parse_object(line.removeprefix(b"error:"))
            if line.startswith(b"error:") or find_error(reported) is not None:
                self.error = failures.provider_error(reported)

    def read(self, data: bytes) -> tuple[list[sse.Event], ChoreoError | None]:
        """Return the events that *data* completes, and the failure after them, if any."""
        try:
            return self.receive_data(data), self.error
        except sse.DecodeError as error:
            failure = UpstreamInvalid(f"the provider's stream cannot be read: {error}")
            return error.events, failure
        except ChoreoError as error:  # the value of an error: line is not JSON
            return [], error


def without_usage(raw: bytes) -> bytes | None:
    """Return *raw*, a chunk, without its own ``"usage":null``; None if it may belong to another."""
    if raw.count(b'"usage"') != 1 or _ESCAPED_LETTER.search(raw):
        return None  # an object inside the chunk may have the member
    if raw.endswith(_LAST_MEMBER):
        return raw[: -len(_LAST_MEMBER)] + b"}"
    cut, count = _NULL_USAGE.subn(b"", raw, count=1)
    return cut if count else None


class WholeEvents:
    """Buffers bytes until events are whole; an event may have *limit* bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()  # the start of an incomplete event
        self._after_cr = False  # the last byte was CR, perhaps the first half of CRLF

    @property
    def empty(self) -> bool:
        """Whether the next byte begins an event."""
        return not self._rest

    @property
    def too_large(self) -> bool:
        """Whether the incomplete event is longer than the limit."""
        return len(self._rest) > self._limit

    def feed(self, data: bytes) -> bytes:
        """Return the whole events so far, with LF as line ends; buffer the rest."""
        if self._after_cr or b"\r" in data:
            data = self._line_feeds(data)
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            rest = self._rest
            if not (rest and data.startswith(b"\n") and rest.endswith(b"\n")):
                rest += data
                return b""
            end = 1
        block = data if end == len(data) else data[:end]
        if self._rest:
            self._rest += block
            block = bytes(self._rest)
            self._rest = bytearray()
        self._rest += data[end:] if end < len(data) else b""
        return block

    def end(self) -> bytes:
        """Return the incomplete event at the end of the stream, with a blank line, or ``b""``."""
        rest, self._rest = bytes(self._rest), bytearray()
        return rest + b"\n\n" if rest.strip() else b""

    def _line_feeds(self, data: bytes) -> bytes:
        """Return *data* with CR and CRLF replaced by LF; JSON strings contain neither."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
