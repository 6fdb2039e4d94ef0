"""Where a response body ends, and the bytes in between: RFC 9112, section 6 and 7.

Each framing has ``feed(data)``, which returns the body's bytes in *data*; ``end()``, which
is told that the connection has ended; ``done``, whether the body is complete; and
``excess``, whether more came than belongs to it.  A failure inside ``feed`` is kept in
``error`` so that what came before it is not lost.

Pure, and nothing of ours is imported: the client (``choreoai``) reads with it too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

#: Longest line of a chunk's size with its extensions, and longest trailer section.
_MAX_LINE = 4096
_MAX_TRAILER = 65536
#: Longest block that is looked at as one chunk first.
_SMALL = 4096
# At most 8 digits: a chunk below 4 GiB.
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?")
_BARE_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")
_LENGTH = re.compile(r"[0-9]{1,15}")


class FramingError(ValueError):
    """The bytes are not a body of the announced form, or the form is not clear."""


class Truncated(FramingError):
    """The connection ended before the body did."""

    def __init__(self) -> None:
        super().__init__("the connection was closed inside the answer")


class Framing(Protocol):
    """What finds the end of a body; see the module's text."""

    done: bool
    excess: bool
    error: FramingError | None

    def feed(self, data: bytes) -> bytes:
        """Take what the connection gave; return the body's bytes in it."""

    def end(self) -> None:
        """Take note that the connection has ended; raise Truncated if too early."""


class Sized:
    """A body with Content-Length."""

    def __init__(self, size: int) -> None:
        self._left = size
        self.done = size == 0
        self.excess = False
        self.error: FramingError | None = None

    def feed(self, data: bytes) -> bytes:
        """Return *data* up to the announced length."""
        self.excess = len(data) > self._left
        if self.excess:
            data = data[: self._left]
        self._left -= len(data)
        self.done = self._left == 0
        return data

    def end(self) -> None:
        """Raise Truncated when bytes are missing."""
        if not self.done:
            raise Truncated


class UntilClose:
    """A body that ends with its connection."""

    def __init__(self) -> None:
        self.done = False
        self.excess = False
        self.error: FramingError | None = None

    def feed(self, data: bytes) -> bytes:
        """Return *data*."""
        return data

    def end(self) -> None:
        """The end of the connection is the end of the body."""
        self.done = True


class _Sizes(dict[bytes, int]):
    """The values of the chunk sizes seen, each checked once; KeyError for what is none."""

    def __missing__(self, line: bytes) -> int:
        if not _BARE_SIZE.fullmatch(line):
            raise KeyError(line)
        if len(self) > 4096:
            self.clear()
        self[line] = size = int(line, 16)
        return size


_SIZES = _Sizes()


class Chunked:
    """A body in chunks.

    A relay spends most of its time here, so all whole chunks of a block are taken apart at
    once: split at CRLF, a good block is sizes and data by turns.  When that is not what
    came out (data that holds CRLF, chunk extensions) they are taken one by one.
    """

    def __init__(self) -> None:
        self.done = False
        self.excess = False
        self.error: FramingError | None = None
        self._rest = b""  # the start of something: a size line, a CRLF, a trailer
        self._left = 0  # bytes of the current chunk still to come
        self._closing = False  # the CRLF behind a chunk's data is still to come
        self._last = False  # the last chunk came: what follows is the trailer
        self._trailer = 0  # bytes of the trailer so far
        self.sizes: Mapping[bytes, int] = _SIZES

    @property
    def fresh(self) -> bool:
        """Whether the next byte begins a chunk."""
        return not (self._rest or self._left or self._closing or self._last)

    def feed(self, data: bytes) -> bytes:
        """Return the data of the chunks, and of parts of chunks, in *data*."""
        if self._left > len(data):
            self._left -= len(data)
            return data
        if len(data) < _SMALL and self.fresh:
            # At the pace of a model this is mostly one whole chunk.
            line = data.find(b"\r\n")
            size = self.sizes.get(data[:line])
            if size and size == len(data) - line - 4 and data.endswith(b"\r\n"):
                return data[line + 2 : -2]
        pieces: list[bytes] = []
        try:
            self._feed(data, pieces)
        except FramingError as error:
            self.error = error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _feed(self, data: bytes, pieces: list[bytes]) -> None:
        at = 0
        if self._rest:
            data = self._rest + data
            self._rest = b""
        elif self._left:
            at = self._left
            pieces.append(data[:at])
            self._left = 0
            self._closing = True
        if not (self._closing or self._last):
            at = self._bulk(data, pieces)
        elif self._closing and data.startswith(b"\r\n", at):
            self._closing = False
            at = at + 2 + self._bulk(data[at + 2 :], pieces)
        while at < len(data) and not self.done:
            before = at
            at = self._step(data, at, pieces)
            if at == before:  # not whole yet
                self._rest = data[at:]
                return
        self.excess = at < len(data)

    def _bulk(self, data: bytes, pieces: list[bytes]) -> int:
        """Take the whole chunks at the start of *data*, if it is as it mostly is."""
        parts = data.split(b"\r\n")
        whole = (len(parts) - 1) // 2 * 2
        sizes, chunks = parts[0:whole:2], parts[1:whole:2]
        lengths = list(map(len, chunks))
        try:
            if lengths != list(map(self.sizes.__getitem__, sizes)):
                return 0
        except KeyError:
            return 0
        if not all(lengths):  # the last chunk, whose trailer is read the other way
            last = lengths.index(0)
            whole = 2 * last
            del chunks[last:]
        pieces += chunks
        after = parts[whole:]
        return len(data) - sum(map(len, after)) - 2 * (len(after) - 1)

    def _step(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Take one thing that begins at *at*; return where the next begins, or *at*."""
        if self._closing:
            return self._close_chunk(data, at)
        end = data.find(b"\r\n", at, at + _MAX_LINE)
        if self._last:
            return self._take_trailer(data, at, end)
        if end < 0:
            if len(data) - at >= _MAX_LINE:
                raise FramingError("an endless chunk size")
            return at
        match = _SIZE.fullmatch(data, at, end)
        if match is None:
            raise FramingError("a chunk without a size")
        size = int(match[1], 16)
        if size == 0:
            self._last = True
            return end + 2
        piece = data[end + 2 : end + 2 + size]
        pieces.append(piece)
        self._left = size - len(piece)
        self._closing = not self._left
        return end + 2 + len(piece)

    def _close_chunk(self, data: bytes, at: int) -> int:
        if data.startswith(b"\r\n", at):
            self._closing = False
            return at + 2
        if data[at:] == b"\r":
            return at
        raise FramingError("a chunk longer than its size")

    def _take_trailer(self, data: bytes, at: int, end: int) -> int:
        """Pass over a trailer field; the empty line is the end of the body."""
        if end < 0:
            if len(data) - at >= _MAX_LINE:
                raise FramingError("an endless trailer")
            return at
        self._trailer += end + 2 - at
        if self._trailer > _MAX_TRAILER:
            raise FramingError("an endless trailer")
        self.done = end == at
        return end + 2

    def end(self) -> None:
        """Raise Truncated unless the last chunk and its trailer came."""
        if not self.done:
            raise Truncated


class Headers(Protocol):
    """Headers whose names are found in any case, such as ``email.message.Message``."""

    def get_all(self, name: str, /) -> list[Any] | None:
        """Return the values of all headers called *name*, or None."""


def framing_of(method: str, status: int, headers: Headers) -> Callable[[], Framing]:
    """Return how the body of the answer to *method* ends: RFC 9112, section 6.3.

    Raises FramingError when the head contradicts itself or names a transfer coding other
    than chunked.
    """
    if method == "HEAD" or status < 200 or status in (204, 304):
        return partial(Sized, 0)
    transfer = headers.get_all("Transfer-Encoding")
    if transfer is not None:
        if ",".join(transfer).strip().lower() != "chunked":
            raise FramingError("an unknown transfer coding")
        return Chunked
    lengths = set(headers.get_all("Content-Length") or ())
    if not lengths:
        return UntilClose
    length = lengths.pop().strip()
    if lengths or not _LENGTH.fullmatch(length):
        raise FramingError("no clear length")
    return partial(Sized, int(length))
