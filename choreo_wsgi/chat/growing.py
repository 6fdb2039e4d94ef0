"""Texts that grow by pieces, and texts that are kept as UTF-8, in little memory.

As :mod:`~choreo_wsgi.chat.aside`, only translations need this module.
"""

from __future__ import annotations

from collections.abc import Iterator

from .aside import decode_pieces, encoded, escaped, set_aside
from .items import Marks
from .longtext import WINDOW, LazyJson, new_mark

#: Bytes of the longest text that takes less memory as a string than as a mark, about.
_SHORT, _SHORT_WIDE = 1024, 128
#: Pieces of a text that are joined at once: each takes more memory than its characters.
_MANY = 500


class Growing:
    """A text that grows by pieces; long parts of it are set aside, as they may be wide."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._set_aside = 0  # the number of pieces whose long parts are set aside
        self._size = 0  # of the other pieces

    def add(self, piece: str, marks: Marks) -> None:
        """Add *piece*, which may hold *marks*."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > WINDOW or len(self._pieces) > self._set_aside + _MANY:
            some = self._pieces[self._set_aside :]
            self._pieces[self._set_aside :] = [set_aside(some, marks)]
            self._set_aside, self._size = self._set_aside + 1, 0

    def whole(self, marks: Marks) -> str:
        """Return the text so far, with *marks* in place of long parts."""
        return set_aside(self._pieces, marks)


class _Utf8(LazyJson):
    """The text whose UTF-8 is *value*; arguments may take twice as much when they are escaped."""

    def text(self, marks: Marks) -> Iterator[bytes]:
        return map(encoded, decode_pieces(self.value))

    def escaped(self, marks: Marks) -> Iterator[bytes]:
        return map(escaped, decode_pieces(self.value))


class JsonText(_Utf8):
    """The JSON text *value*, in UTF-8, for the mark of a number: its values would take more."""

    def escaped(self, marks: Marks) -> Iterator[bytes]:
        return (piece.encode("utf-8", "backslashreplace") for piece in decode_pieces(self.value))


def utf8_or_mark(text: bytes | bytearray, marks: Marks) -> str:
    """Return *text*, UTF-8 without marks, as a string; or a new mark if that would be long."""
    if len(text) <= (_SHORT if text.isascii() else _SHORT_WIDE):
        return text.decode("utf-8", "surrogatepass")
    mark = new_mark()
    marks[mark.encode()] = _Utf8(text)
    return mark
