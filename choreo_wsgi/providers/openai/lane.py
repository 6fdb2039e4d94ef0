r"""Lane: the fast path of small text events, from the upstream's socket to the client's.

At the speed of a model events arrive one by one.  Normally each passes through every layer: the
connection decodes the chunked body (RFC 9112, 7.1), the relay rewrites the event, the server
encodes it as a chunk again and sends it.  While events follow a :class:`~.pattern.Pattern`, a lane
does all of it in one function.  It receives one chunk and sends another, with a new size line::

    received  4C\r\n
              data: {"model":"m-1","choices":[{"delta":{"content":" Hi"}}],"usage":null}\n\n\r\n
    sent      40\r\n
              data: {"model":"fast","choices":[{"delta":{"content":" Hi"}}]}\n\n\r\n

Bytes that are not exactly one chunk of such events are left to the normal path, unchanged, as
``unread``, and :meth:`Lane.forward` returns False.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ... import sse
from .pattern import SPECIAL, Pattern

#: Bytes that the short check does not cover: escaped in JSON, or not ASCII.
_NOT_PLAIN = SPECIAL + bytes(range(128, 256))


class Reading(Protocol):
    """The connection of the normal path."""

    #: The bytes, or the error of the connection, that the next normal read must process first.
    unread: bytes | OSError
    #: When bytes were last received, ``time.monotonic()``.
    last_received: float


class Lane:
    """See :class:`choreo_wsgi.chat.source.Lane`.

    *receive* returns the bytes available of a chunked body, ``b""`` at its end; without any it
    returns None or raises BlockingIOError.  *sizes* maps the size lines of chunks to sizes.  Only
    chunks below *limit* bytes pass; if *plain*, only single events whose text is ASCII without
    escapes and not empty.  All others are left to *reading*.
    """

    # One function and one object without a __dict__: with hundreds of streams, each step and each
    # object has left the CPU's cache since the last event.  One call for each of five layers would
    # cost a fifth of the time of a frame ("python -m bench pace").
    __slots__ = (
        *("_after", "_before", "_least", "_length", "_limit", "_prefix", "_reading", "_receive"),
        *("_rewrite", "_on_text", "_sizes", "_skip", "_suffix", "last_forwarded", "keep"),
        *("on_frames", "send"),
    )

    keep: Callable[[bytes], None]
    send: Callable[[bytes], int]
    on_frames: Callable[[int, float], None]

    def __init__(
        self,
        reading: Reading,
        receive: Callable[[], bytes | None],
        sizes: Mapping[bytes, int],
        pattern: Pattern,
        limit: int,
        plain: bool = False,
    ) -> None:
        self._reading = reading
        self._receive = receive
        self._sizes = sizes
        self._limit = limit
        self._rewrite = None if plain else pattern.apply
        self._on_text = pattern.on_text
        self._prefix, self._suffix = pattern.prefix, pattern.suffix + b"\r\n"
        self._skip = len(self._prefix) + 2
        self._least = self._skip + plain  # where the suffix may begin: a plain text is not empty
        self._before, self._after = pattern.new_prefix, pattern.new_suffix + b"\r\n"
        self._length = len(self._before) + len(self._after) - 2
        self.last_forwarded = 0.0

    def forward(self, now: float) -> bool:
        """Forward the bytes available at the time *now*; return False for the normal path."""
        try:
            data = self._receive()
        except BlockingIOError:
            return True
        except OSError as error:
            self._reading.unread = error
            return False
        if not data:
            return data is None  # b"" is the end, which the normal path will receive again
        line = data.find(b"\r\n", 0, 10)
        begin, size = line + self._skip, len(data)
        chunk, frames = None, 1
        if (
            self._sizes.get(data[:line]) == size - line - 4
            and data.startswith(self._prefix, line + 2)
            and data.endswith(self._suffix, line + self._least)  # no overlap with the prefix
            and size < self._limit
        ):
            text = data[begin : -len(self._suffix)]
            if len(text.translate(None, _NOT_PLAIN)) == len(text):
                if self._on_text is not None:
                    self._on_text(text)
                length = self._length + len(text)
                chunk = b"%X\r\n%b%b%b" % (length, self._before, text, self._after)
            elif self._rewrite is not None:
                block = self._rewrite(data[line + 2 : -2])
                if block is not None:
                    chunk, frames = b"%X\r\n%b\r\n" % (len(block), block), sse.count(block)
        if chunk is None:
            self._reading.unread = data
            return False
        self.last_forwarded = self._reading.last_received = now
        self.on_frames(frames, now)
        try:
            sent = self.send(chunk)
        except OSError:
            sent = 0  # the socket is full or closed: keep() finds out which
        if sent == len(chunk):
            return True
        self.keep(chunk[sent:])
        return False
