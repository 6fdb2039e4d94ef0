"""Where the body of an HTTP/1.1 response ends (RFC 9112, section 6.3).

Three ways, and one class for each: :class:`Chunked`, :class:`Length`, :class:`UntilClose`.
Bytes of the connection go in as they come, bytes of the body come out at once; ``done``
tells that the body is complete.  Pure: no socket here.

The standard library reads the same formats, but piece by piece: a burst of thousands of
frames costs it several calls for each, and here one slice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

__all__ = ["Chunked", "Framing", "FramingError", "Length", "UntilClose", "framing_of"]

# chunk-size [ chunk-ext ] CRLF, with at most 15 digits, so that it fits 64 bits.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
_LONGEST_LINE = 16 * 1024


class FramingError(ValueError):
    """The bytes are not a body of the announced form."""


class Framing(Protocol):
    """A body in one of the three forms."""

    #: The body is complete.
    done: bool
    #: Bytes came after the body: the connection cannot be used again.
    excess: bool

    def take(self, data: bytes) -> bytes:
        """Take the next bytes of the connection; return the bytes of the body in them."""

    def ends_at_close(self) -> bool:
        """Return whether the body is complete if the connection is closed now."""


class UntilClose:
    """The body is whatever comes until the connection is closed."""

    done = False
    excess = False

    def take(self, data: bytes) -> bytes:
        return data

    def ends_at_close(self) -> bool:
        return True


class Length:
    """The body has *length* bytes."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.excess = False

    def take(self, data: bytes) -> bytes:
        body = data[: self._left]
        self._left -= len(body)
        self.done = self._left == 0
        self.excess = self.excess or len(data) > len(body)
        return body

    def ends_at_close(self) -> bool:
        return self.done


class Chunked:
    """The body comes in chunks, each with its size before it (RFC 9112, section 7.1)."""

    def __init__(self) -> None:
        self.done = False
        self.excess = False
        self._rest = b""  # an incomplete line
        self._left = 0  # bytes of the current chunk that are still to come
        self._line_due = False  # the line end after a chunk's data is still to come
        self._trailer = False

    def take(self, data: bytes) -> bytes:
        """See :class:`Framing`.  Raises FramingError for what is not chunked coding."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        body: list[bytes] = []
        at = 0
        while at < len(data) and not self.done:
            if not (self._left or self._line_due or self._trailer):
                at = self._whole_chunks(data, at, body)
                if at == len(data):
                    break
            if self._left:
                piece = data[at : at + self._left]
                body.append(piece)
                at += len(piece)
                self._left -= len(piece)
                self._line_due = not self._left
                continue
            after = self._line(data, at)
            if after < 0:
                self._keep(data[at:])
                break
            at = after
        if self.done and at < len(data):
            self.excess = True
        return b"".join(body)

    @staticmethod
    def _whole_chunks(data: bytes, at: int, body: list[bytes]) -> int:
        """Append the data of whole chunks from *at* on; return where they end."""
        length = len(data)
        while (match := _SIZE_LINE.match(data, at)) is not None:
            start = match.end()
            end = start + int(match[1], 16)
            if end == start or end + 2 > length or data[end : end + 2] != b"\r\n":
                break
            body.append(data[start:end])
            at = end + 2
        return at

    def _line(self, data: bytes, at: int) -> int:
        """Take the line at *at*; return where the next begins, or -1 if it is incomplete."""
        if self._line_due:
            if data.startswith(b"\r\n", at):
                self._line_due = False
                return at + 2
            if b"\r\n".startswith(data[at : at + 2]):
                return -1
            raise FramingError("a chunk is longer than its size")
        if self._trailer:
            end = data.find(b"\r\n", at)
            self.done = end == at
            return end + 2 if end >= 0 else -1
        match = _SIZE_LINE.match(data, at)
        if match is None:
            if data.find(b"\n", at) >= 0:
                raise FramingError("a chunk without a size")
            return -1
        self._left = int(match[1], 16)
        self._trailer = self._left == 0
        return match.end()

    def _keep(self, part: bytes) -> None:
        if len(part) > _LONGEST_LINE:
            raise FramingError(f"a line of the chunked coding is over {_LONGEST_LINE} bytes")
        self._rest = part

    def ends_at_close(self) -> bool:
        return self.done


def framing_of(status: int, headers: Mapping[str, str]) -> Framing:
    """Return how the body of a response to GET, POST or DELETE is framed.

    *headers* finds names whatever their case.  Raises FramingError when the head
    contradicts itself or names a transfer coding other than chunked.
    """
    if status in (204, 304) or status < 200:
        return Length(0)
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if coding.strip().lower() != "chunked":
            raise FramingError(f"unknown transfer coding {coding[:50]!r}")
        return Chunked()
    length = headers.get("content-length")
    if length is None:
        return UntilClose()
    length = length.strip()
    if not (length.isascii() and length.isdigit() and len(length) < 16):
        raise FramingError(f"impossible Content-Length {length[:50]!r}")
    return Length(int(length))
