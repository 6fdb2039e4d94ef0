"""A body that came compressed although nobody asked for it: RFC 9110, section 8.4.1.  Pure."""

from __future__ import annotations

import re
import zlib

from .framing import FramingError

#: What one block (at most 128 KiB) may unpack to; text is seldom packed to less than a tenth.
_MAX_UNPACKED = 16 * 1024 * 1024

# How JSON, HTML and Server-Sent Events begin.
_TEXT = re.compile(rb"[\xef\xbb\xbf \t\r\n]*(?:data:|event:|id:|retry:|error:|[:{\[<])")


def is_packed(coding: str, data: bytes) -> bool:
    """Return whether a body that begins with *data* is packed: by its bytes, where they tell.

    Neither JSON nor events nor AWS's messages begin with gzip's first byte; a body whose
    *coding* says that it is packed may have been unpacked on its way.
    """
    return data[:1] == b"\x1f" or (coding == "deflate" and not _TEXT.match(data))


class Unpacker:
    """Undoes gzip and deflate, and does not let a body grow without bound."""

    def __init__(self) -> None:
        self._packed = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, by its head
        self._begun = False

    def unpack(self, data: bytes) -> bytes:
        """Return what *data* unpacks to; raises FramingError."""
        unpacked = b""
        while data:
            try:
                unpacked += self._packed.decompress(data, _MAX_UNPACKED)
            except zlib.error as error:
                if self._begun:
                    raise FramingError(f"the answer cannot be unpacked: {error}") from error
                self._begun = True  # "deflate" without the head that it should have
                self._packed = zlib.decompressobj(-zlib.MAX_WBITS)
                continue
            self._begun = True
            if self._packed.unconsumed_tail or len(unpacked) > _MAX_UNPACKED:
                raise FramingError("the answer unpacks to too much")
            data = self._packed.unused_data
            if self._packed.eof and data:
                self._packed = zlib.decompressobj(zlib.MAX_WBITS | 32)
        return unpacked
