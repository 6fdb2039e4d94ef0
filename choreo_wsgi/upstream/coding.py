"""Decompression of a body that is compressed though not requested so: RFC 9110, 8.4.1.  Pure."""

from __future__ import annotations

import re
import zlib

from .framing import FramingError

#: Limit of bytes that one block (at most 128 KiB) may decompress to; text is rarely compressed
#: to less than a tenth.
_MAX_DECOMPRESSED = 16 * 1024 * 1024

# Limit of gzip members begun in one step: each copies the data behind it.
_MEMBERS = 256

# The beginning of JSON, HTML and Server-Sent Events.
_TEXT = re.compile(rb"[\xef\xbb\xbf \t\r\n]*(?:data:|event:|id:|retry:|error:|[:{\[<])")


def is_compressed(coding: str, data: bytes) -> bool:
    """Return whether a body that begins with *data* is compressed.

    The bytes decide: an intermediary may have decompressed a body and left its header *coding*.
    JSON, events and AWS's messages never begin with gzip's first byte.
    """
    return data[:1] == b"\x1f" or (coding == "deflate" and not _TEXT.match(data))


class Decompressor:
    """Decompresses gzip and deflate.

    ``waiting`` is whether the data given so far can be decompressed further.
    """

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, by its header
        self._begun = False
        self._rest = b""
        self.waiting = False

    def decompress(self, data: bytes) -> bytes:
        """Return *data* decompressed; raises FramingError, also if the result is too long."""
        decompressed = self.step(data, _MAX_DECOMPRESSED)
        if self.waiting:
            raise FramingError("the answer is too long once decompressed")
        return decompressed

    def step(self, data: bytes, most: int) -> bytes:
        """Decompress the data that wait, then *data*; return up to *most* bytes.

        Raises FramingError.
        """
        data = self._rest + data
        pieces: list[bytes] = []
        members = 0
        while members < _MEMBERS and (data or self.waiting):
            try:
                pieces.append(self._zlib.decompress(data, most))
            except zlib.error as error:
                if self._begun:
                    raise FramingError(f"the answer cannot be decompressed: {error}") from error
                self._begun = True  # "deflate" without the zlib header that it should have
                self._zlib = zlib.decompressobj(-zlib.MAX_WBITS)
                continue
            self._begun = True
            most -= len(pieces[-1])
            data = self._zlib.unconsumed_tail or self._zlib.unused_data
            self.waiting = not most  # zlib may buffer output although it consumed all input
            if not most:
                break
            if self._zlib.eof:
                self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 32)
                members += 1
        self._rest = data
        self.waiting = self.waiting or bool(data)
        return b"".join(pieces)
