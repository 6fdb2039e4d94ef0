"""The shortest way for the usual event of a stream: one chunk in, one chunk out.

At a model's pace events come one by one, each mostly one chunk that follows the pattern of the
last.  The long way hands it from layer to layer, from the connection to the task.  A
:class:`Lane` takes such a chunk and nothing else: what differs goes the long way, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ... import sse
from .pattern import SPECIAL, Pattern

#: What stands in a JSON string as an escape only, or may be the half of a character.
_NOT_PLAIN = SPECIAL + bytes(range(128, 256))


class Reading(Protocol):
    """Where the long way begins."""

    #: What was read and has to be looked at again: bytes, or the failure of the connection.
    unread: bytes | OSError
    #: When something came last, ``time.monotonic()``.
    heard: float


class Lane:
    """See :class:`choreo_wsgi.chat.source.Lane`.

    *receive* returns the bytes of a chunked body that are there, None or BlockingIOError if there
    are none; *sizes* knows the lines that begin chunks.  Only chunks below *limit* bytes are
    taken, and with *plain* only single events of a text that needs no decoding.  What cannot be
    is left to *reading*.
    """

    # One function, and one object without a dict: with hundreds of streams each step, and each
    # object that it touches, has left the cache since the last event.  A call for each of five
    # layers costs a fifth of a frame ("python -m bench pace").
    __slots__ = (
        *("_after", "_before", "_least", "_length", "_limit", "_prefix", "_reading", "_receive"),
        *("_rewrite", "_seen", "_sizes", "_skip", "_suffix", "heard", "keep", "on_frames"),
        "send",
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
        self._seen = pattern.seen
        self._prefix, self._suffix = pattern.prefix, pattern.suffix + b"\r\n"
        self._skip = len(self._prefix) + 2
        self._least = self._skip + plain
        self._before, self._after = pattern.new_prefix, pattern.new_suffix + b"\r\n"
        self._length = len(self._before) + len(self._after) - 2
        self.heard = 0.0

    def forward(self, now: float) -> bool:
        """Send what came until *now*; return False if the answer has to go on the long way."""
        try:
            data = self._receive()
        except BlockingIOError:
            return True
        except OSError as error:
            self._reading.unread = error
            return False
        if not data:
            return data is None  # else it is the end, which shows again
        line = data.find(b"\r\n", 0, 10)
        begin, size = line + self._skip, len(data)
        chunk, frames = None, 1
        if (
            self._sizes.get(data[:line]) == size - line - 4
            and data.startswith(self._prefix, line + 2)
            and data.endswith(self._suffix, line + self._least)  # behind the prefix
            and size < self._limit
        ):
            text = data[begin : -len(self._suffix)]
            if len(text.translate(None, _NOT_PLAIN)) == len(text):
                if self._seen is not None:
                    self._seen(text)
                length = self._length + len(text)
                chunk = b"%X\r\n%b%b%b" % (length, self._before, text, self._after)
            elif self._rewrite is not None:
                block = self._rewrite(data[line + 2 : -2])
                if block is not None:
                    chunk, frames = b"%X\r\n%b\r\n" % (len(block), block), sse.count(block)
        if chunk is None:
            self._reading.unread = data
            return False
        self.heard = self._reading.heard = now
        self.on_frames(frames, now)
        try:
            sent = self.send(chunk)
        except OSError:
            sent = 0  # there is no room, or the client has gone, which shows when it is kept
        if sent == len(chunk):
            return True
        self.keep(chunk[sent:])
        return False
