"""Server-Sent Events (WHATWG HTML, section 9.2): encoding and decoding of streams.

Writing: :data:`HEAD`, :func:`frame`, :data:`PING`, :data:`DONE`.
Reading: :class:`Decoder`, bytes in, :class:`Event` out.

This module uses no socket, clock or thread.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

__all__ = [
    "DONE",
    "HEAD",
    "PING",
    "DecodeError",
    "Decoder",
    "Event",
    "EventTooLarge",
    "frame",
    "number",
]

#: The response headers of a stream.  No ``Connection`` header: hop-by-hop headers belong to
#: the server (PEP 3333).  ``X-Accel-Buffering`` stops nginx from buffering frames, and
#: ``no-transform`` stops proxies from compressing them.
HEAD: tuple[tuple[str, str], ...] = (
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-cache, no-transform"),
    ("X-Accel-Buffering", "no"),
)

#: The end marker of a complete stream.
DONE = b"data: [DONE]\n\n"

#: The comment that keeps a silent connection alive; to be sent between frames only.  It has one
#: newline, not two: with ``id:`` lines in use a comment that ends in a blank line dispatches an
#: empty event in several clients, which then fail to parse it as JSON.
PING = b": ping\n"

_LINE_END = re.compile(rb"\r\n|\n|\r")
#: Longest line, in bytes, of an event that is decoded by :meth:`Decoder._decode_plain`.
_LONG = 64 * 1024
#: Limits of the bytes of an event whose data is in several lines, and of these: they are joined.
_MOST_IN_LINES, _MOST_LINES = 1024 * 1024, 50_000
_BOM = b"\xef\xbb\xbf"


class DecodeError(ValueError):
    """The bytes are not a valid event stream, and reading cannot continue.

    ``events`` are the events that the same call completed before.
    """

    events: list[Event] = []


class EventTooLarge(DecodeError):
    """An event is longer than the decoder's limit."""


class Event(NamedTuple):
    """One dispatched event: its data, its type, and the last event id seen so far."""

    data: str
    event: str = "message"
    id: str = ""


def frame(data: bytes, event: str = "", id: int = 0) -> bytes:
    """Return one event with *data*, one line of UTF-8, after the fields *id* and *event* if given.

    Raises ValueError if *data* contains a line end, which would change the event's meaning.
    """
    if b"\n" in data or b"\r" in data:
        raise ValueError("the data of a frame must be one line")
    head = b"event: %b\ndata: " % event.encode() if event else b"data: "
    return b"".join((b"id: %d\n" % id if id else b"", head, data, b"\n\n"))


def number(block: bytes, first: int) -> tuple[bytes, int]:
    """Return the frames of *block* with the ids *first*, *first* + 1 ..., and their count.

    The frames are written by us, without ids: one ``data:``, after ``event:`` if the API has it.
    """
    if len(block) > 4 * _LONG:  # as below, but copied once
        parts, view, at, next_id = list[bytes | memoryview](), memoryview(block), 0, first
        while (end := block.find(b"\n\n", at)) >= 0:
            parts += (b"id: %d\n" % next_id, view[at : end + 2])
            at, next_id = end + 2, next_id + 1
        return b"".join(parts), next_id - first
    frames = block.split(b"\n\n")
    frames.pop()  # the empty rest after the last blank line
    numbered = [b"id: %d\n%b\n\n" % pair for pair in enumerate(frames, first)]
    return b"".join(numbered), len(numbered)


def count(block: bytes) -> int:
    """Return the number of frames in *block*, all of which begin with the same four bytes."""
    # Searching for six bytes takes a third of the time of searching for two line ends.
    return 1 + block.count(b"\n\n" + block[:4])


def _pieces(data: bytes) -> Iterator[bytes]:
    """Yield *data* in pieces of whole lines: all lines at once may take several times its bytes."""
    at = 0
    while at < len(data):
        begin, ends = at, [data.find(end, at + _LONG) + 1 for end in (b"\n", b"\r")]
        at = min(filter(None, ends), default=len(data))
        at = at if len(data) - at > _LONG else len(data)
        yield data[begin:at]


class Decoder:
    """Turns the bytes of an event stream, split anywhere, into events.

    Lines end in LF, CR or CRLF and in nothing else; a byte order mark is dropped at the
    start; ``data`` lines are joined with LF; comments, unknown fields, an ``id`` with NUL
    and events without data are ignored; an event truncated by the end of input is never
    dispatched (WHATWG HTML 9.2.6).

    An event, and each line, may have *max_event_bytes*.  Invalid UTF-8 is replaced, as the
    standard says, or raises DecodeError if *errors* is ``"strict"``.  ``shorten``, if set, is
    called with the bytes of long data and returns the bytes to decode instead.

    ``last_event_id`` is the id of the last complete event, from which a client can resume.
    ``retry`` is the latest reconnection time in the stream, in milliseconds, or None.
    """

    def __init__(self, max_event_bytes: int = 8 * 1024 * 1024, errors: str = "replace") -> None:
        self.shorten: Callable[[bytes], bytes] | None = None
        self.last_event_id = ""
        self.retry: int | None = None
        self._limit = max_event_bytes
        self._errors = errors
        self._rest = bytearray()  # an incomplete line
        self._started = False
        self._skip_lf = False  # the last line ended in CR, perhaps the first half of CRLF
        self._data: list[bytes] = []
        self._size = 0
        self._event = ""
        self._id = ""  # becomes last_event_id at the blank line that ends its event

    @property
    def pending(self) -> bool:
        """Whether bytes of an incomplete event are buffered."""
        return bool(self._rest or self._data)

    @property
    def between_events(self) -> bool:
        """Whether the next byte certainly begins an event: no line of it was received yet."""
        return self._started and not (self.pending or self._event or self._skip_lf)

    def receive_data(self, data: bytes) -> list[Event]:
        """Return the events that *data*, the next bytes, completes, in order.

        Raises EventTooLarge, and DecodeError for invalid UTF-8 with ``errors="strict"``.
        """
        events: list[Event] = []
        try:
            for piece in _pieces(data) if len(data) > 2 * _LONG else (data,):
                self._decode_lines(self._lines(piece), events)
            self._check_size(len(self._rest))
        except DecodeError as error:
            error.events = events
            raise
        return events

    def unknown(self, line: bytes) -> None:
        """Ignore a line that is no field of the standard; subclasses may read it."""

    def _decode_lines(self, lines: list[bytes], events: list[Event]) -> None:
        del lines[: self._decode_plain(lines, events)]
        lines.reverse()
        while lines:
            line = lines.pop()  # so that one copy of a long one is kept
            if not line:
                self.last_event_id = self._id
                if self._data:
                    events.append(self._dispatch())
                self._event = ""
                continue
            self._check_size(len(line))
            if line.startswith(b"data:"):
                self._add_data(line[6:] if line.startswith(b"data: ") else line[5:], len(line))
            elif not line.startswith(b":"):
                self._decode_field(line)

    def _decode_plain(self, lines: list[bytes], events: list[Event]) -> int:
        """Decode the events at the start of *lines* that are one ``data`` line each.

        Returns the number of their lines.  Nearly all events of a stream are of this kind, and
        this takes about two thirds of the time of :meth:`_decode_lines`.
        """
        if self._data or self._event:
            return 0
        at = 0
        new, id, limit = tuple.__new__, self._id, min(self._limit, _LONG)
        for line, blank in zip(lines[::2], lines[1::2], strict=False):
            if blank or line[:6] != b"data: " or len(line) > limit:
                break
            try:
                data = line.decode("utf-8", self._errors)
            except UnicodeDecodeError:
                break  # _decode_lines raises the error
            events.append(new(Event, (data[6:], "message", id)))
            at += 2
        if at:
            self.last_event_id = id
        return at

    def _lines(self, data: bytes) -> list[bytes]:
        """Return the lines that *data* completes; buffer the rest."""
        if self._skip_lf and data:
            self._skip_lf = False
            if data.startswith(b"\n"):
                data = data[1:]
        if self._rest:
            # Only the new bytes can contain a line end: so a long line is copied once.
            if b"\n" not in data and b"\r" not in data:
                self._rest += data
                return []
            self._rest += data
            data, self._rest = bytes(self._rest), bytearray()
        if not self._started:
            if len(data) < 3 and _BOM.startswith(data):
                self._rest += data
                return []
            self._started = True
            data = data.removeprefix(_BOM)
        if b"\r" in data:
            lines = _LINE_END.split(data)
            self._skip_lf = data.endswith(b"\r")
        else:
            lines = data.split(b"\n")
        self._rest += lines.pop()
        return lines

    def _check_size(self, more: int) -> None:
        if self._size + more > self._limit:
            raise EventTooLarge(f"an event is longer than {self._limit} bytes")

    def _add_data(self, value: bytes, size: int) -> None:
        if self._data and (self._size > _MOST_IN_LINES or len(self._data) > _MOST_LINES):
            raise EventTooLarge("a long event is in many lines")
        self._size += size
        self._data.append(value)

    def _decode_field(self, line: bytes) -> None:
        name, _, raw = line[:_LONG].partition(b":")
        if name == b"data":  # the field without a colon: an empty line of data
            self._add_data(b"", len(line))
            return
        if name not in (b"event", b"id", b"retry"):
            self.unknown(line)
            return
        if len(line) > _LONG:
            raise EventTooLarge(f"a field is longer than {_LONG} bytes")
        value = self._text(raw[1:] if raw.startswith(b" ") else raw)
        if name == b"event":
            self._event = value
        elif name == b"id" and "\0" not in value:
            self._id = value
        elif name == b"retry" and value.isascii() and value.isdigit() and len(value) < 10:
            self.retry = int(value)

    def _text(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8", self._errors)
        except UnicodeDecodeError as error:
            raise DecodeError(f"the event stream is not UTF-8: {error}") from error

    def _dispatch(self) -> Event:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        if self._size > _LONG and self.shorten is not None:
            data = self.shorten(data)
        self._data = []
        self._size = 0
        return Event(self._text(data), self._event or "message", self.last_event_id)
