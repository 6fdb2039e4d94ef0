"""Parsers that find the end of a response body, and its bytes: RFC 9112, sections 6 and 7.

Each framing has ``feed(data)``, which returns the body's bytes in *data*; ``end()``, to be called
when the connection has ended; ``done``, whether the body is complete; and ``excess``, whether
bytes follow the body.  ``feed`` sets ``error`` instead of raising, so that the bytes before the
error are still returned.

Pure, and it imports no other module of ours: the client (``choreoai``) uses it too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

#: Longest line with a chunk's size and extensions, and longest trailer section.
_MAX_LINE = 4096
_MAX_TRAILER = 65536
#: Longest block that is tried as one whole chunk first.
_SMALL = 4096
# At most 8 digits: a chunk below 4 GiB.
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?")
_BARE_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")
_LENGTH = re.compile(r"[0-9]{1,15}")


class FramingError(ValueError):
    """The body does not have the form that its head announces, or the head is ambiguous."""


class Truncated(FramingError):
    """The connection ended before the body did."""

    def __init__(self) -> None:
        super().__init__("the connection was closed inside the answer")


class Framing(Protocol):
    """A parser of one body; see the module's docstring."""

    done: bool
    excess: bool
    error: FramingError | None

    def feed(self, data: bytes) -> bytes:
        """Parse *data*, received from the connection; return the body's bytes in it."""

    def end(self) -> None:
        """Handle the connection's end; raise Truncated if the body is incomplete."""


class Sized:
    """A body with Content-Length."""

    def __init__(self, size: int) -> None:
        self._left = size
        self.done = size == 0
        self.excess = False
        self.error: FramingError | None = None

    def feed(self, data: bytes) -> bytes:
        self.excess = len(data) > self._left
        if self.excess:
            data = data[: self._left]
        self._left -= len(data)
        self.done = self._left == 0
        return data

    def end(self) -> None:
        if not self.done:
            raise Truncated


class UntilClose:
    """A body that ends when its connection is closed."""

    def __init__(self) -> None:
        self.done = False
        self.excess = False
        self.error: FramingError | None = None

    def feed(self, data: bytes) -> bytes:
        return data

    def end(self) -> None:
        self.done = True


class _Sizes(dict[bytes, int]):
    """A cache of chunk sizes by size line; raises KeyError for a line that is not a bare size."""

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

    A relay spends most of its time here, so all whole chunks of a block are parsed at once:
    split at CRLF, the block is usually sizes and data in turn.  If it is not (data with a CRLF,
    chunk extensions), its chunks are parsed one by one.
    """

    def __init__(self) -> None:
        self.done = False
        self.excess = False
        self.error: FramingError | None = None
        self._rest = b""  # an incomplete size line, CRLF or trailer
        self._left = 0  # bytes of the current chunk that are not received yet
        self._expects_crlf = False  # the CRLF behind a chunk's data is next
        self._in_trailer = False  # the last chunk was received
        self._trailer = 0  # bytes of the trailer so far
        self.sizes: Mapping[bytes, int] = _SIZES

    @property
    def at_chunk(self) -> bool:
        """Whether the next byte begins a chunk."""
        return not (self._rest or self._left or self._expects_crlf or self._in_trailer)

    def feed(self, data: bytes) -> bytes:
        if self._left > len(data):
            self._left -= len(data)
            return data
        if len(data) < _SMALL and self.at_chunk:
            # At a model's pace a block is usually one whole chunk.
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
            self._expects_crlf = True
        if not (self._expects_crlf or self._in_trailer):
            at = self._parse_whole_chunks(data, pieces)
        elif self._expects_crlf and data.startswith(b"\r\n", at):
            self._expects_crlf = False
            at = at + 2 + self._parse_whole_chunks(data[at + 2 :], pieces)
        while at < len(data) and not self.done:
            before = at
            at = self._step(data, at, pieces)
            if at == before:  # not whole yet
                self._rest = data[at:]
                return
        self.excess = at < len(data)

    def _parse_whole_chunks(self, data: bytes, pieces: list[bytes]) -> int:
        """Parse the whole chunks at the start of *data*; return their length, 0 if unusual."""
        parts = data.split(b"\r\n")
        whole = (len(parts) - 1) // 2 * 2
        sizes, chunks = parts[0:whole:2], parts[1:whole:2]
        lengths = list(map(len, chunks))
        try:
            if lengths != list(map(self.sizes.__getitem__, sizes)):
                return 0
        except KeyError:
            return 0
        if not all(lengths):  # the last chunk, whose trailer _step reads
            last = lengths.index(0)
            whole = 2 * last
            del chunks[last:]
        pieces += chunks
        after = parts[whole:]
        return len(data) - sum(map(len, after)) - 2 * (len(after) - 1)

    def _step(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Parse one element at *at*; return where the next begins, or *at* if incomplete."""
        if self._expects_crlf:
            return self._parse_crlf(data, at)
        end = data.find(b"\r\n", at, at + _MAX_LINE)
        if self._in_trailer:
            return self._skip_trailer(data, at, end)
        if end < 0:
            if len(data) - at >= _MAX_LINE:
                raise FramingError("a chunk's size line is too long")
            return at
        match = _SIZE.fullmatch(data, at, end)
        if match is None:
            raise FramingError("a chunk without a size")
        size = int(match[1], 16)
        if size == 0:
            self._in_trailer = True
            return end + 2
        piece = data[end + 2 : end + 2 + size]
        pieces.append(piece)
        self._left = size - len(piece)
        self._expects_crlf = not self._left
        return end + 2 + len(piece)

    def _parse_crlf(self, data: bytes, at: int) -> int:
        if data.startswith(b"\r\n", at):
            self._expects_crlf = False
            return at + 2
        if data[at:] == b"\r":
            return at
        raise FramingError("a chunk longer than its size")

    def _skip_trailer(self, data: bytes, at: int, end: int) -> int:
        """Skip a trailer field; an empty line is the end of the body."""
        if end < 0:
            if len(data) - at >= _MAX_LINE:
                raise FramingError("the trailer is too long")
            return at
        self._trailer += end + 2 - at
        if self._trailer > _MAX_TRAILER:
            raise FramingError("the trailer is too long")
        self.done = end == at
        return end + 2

    def end(self) -> None:
        if not self.done:
            raise Truncated


class Headers(Protocol):
    """Headers with case-insensitive names, such as ``email.message.Message``."""

    def get_all(self, name: str, /) -> list[Any] | None:
        """Return the values of all headers called *name*, or None."""


def framing_of(method: str, status: int, headers: Headers) -> Callable[[], Framing]:
    """Return a factory of the framing of the answer to *method*: RFC 9112, section 6.3.

    Raises FramingError when the head is contradictory or has a transfer coding other than
    chunked.
    """
    if method == "HEAD" or status < 200 or status in (204, 304):
        return partial(Sized, 0)
    transfer = headers.get_all("Transfer-Encoding")
    if transfer is not None:
        if ",".join(transfer).lower() != "chunked":
            raise FramingError("an unknown transfer coding")
        return Chunked
    lengths = set(headers.get_all("Content-Length") or ())
    if not lengths:
        return UntilClose
    length = lengths.pop()
    if lengths or not _LENGTH.fullmatch(length):
        raise FramingError("its Content-Length is invalid")
    return partial(Sized, int(length))
