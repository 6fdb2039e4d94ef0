"""A body that came compressed although nobody asked for it: RFC 9110, section 8.4.1.  Pure."""

from __future__ import annotations

import re
import zlib

from .framing import FramingError

#: What one block (at most 128 KiB) may unpack to; text is seldom packed to less than a tenth.
_MAX_UNPACKED = 16 * 1024 * 1024

# Members of a body that are begun in one step: each costs a copy of what follows.
_MEMBERS = 256

# How JSON, HTML and Server-Sent Events begin.
_TEXT = re.compile(rb"[\xef\xbb\xbf \t\r\n]*(?:data:|event:|id:|retry:|error:|[:{\[<])")


def is_compressed(coding: str, data: bytes) -> bool:
    """Return whether a body that begins with *data* is packed: by its bytes, where they tell.

    Neither JSON nor events nor AWS's messages begin with gzip's first byte; a body whose
    *coding* says that it is packed may have been unpacked on its way.
    """
    return data[:1] == b"\x1f" or (coding == "deflate" and not _TEXT.match(data))


class Decompressor:
    """Undoes gzip and deflate.

    *waiting* is whether more can be unpacked of what was given so far.
    """

    def __init__(self) -> None:
        self._packed = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, by its head
        self._begun = False
        self._rest = b""
        self.waiting = False

    def decompress(self, data: bytes) -> bytes:
        """Return what *data* unpacks to; raises FramingError, also for too much."""
        unpacked = self.step(data, _MAX_UNPACKED)
        if self.waiting:
            raise FramingError("the answer unpacks to too much")
        return unpacked

    def step(self, data: bytes, most: int) -> bytes:
        """Return the next *most* bytes that *data* and what waits unpack to, or a few less.

        Raises FramingError.
        """
        data = self._rest + data
        pieces: list[bytes] = []
        members = 0
        while members < _MEMBERS and (data or self.waiting):
            try:
                pieces.append(self._packed.decompress(data, most))
            except zlib.error as error:
                if self._begun:
                    raise FramingError(f"the answer cannot be unpacked: {error}") from error
                self._begun = True  # "deflate" without the head that it should have
                self._packed = zlib.decompressobj(-zlib.MAX_WBITS)
                continue
            self._begun = True
            most -= len(pieces[-1])
            data = self._packed.unconsumed_tail or self._packed.unused_data
            self.waiting = not most  # it may keep some although it has taken all
            if not most:
                break
            if self._packed.eof and data:
                self._packed = zlib.decompressobj(zlib.MAX_WBITS | 32)
                members += 1
        self._rest = data
        self.waiting = self.waiting or bool(data)
        return b"".join(pieces)
