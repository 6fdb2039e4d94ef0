"""Texts that grow by pieces, and texts that are kept as UTF-8, in little memory.

As :mod:`~choreo_wsgi.chat.aside`, only translations need this module.
"""

from __future__ import annotations

import codecs
from base64 import b64decode, b64encode
from collections.abc import Iterator

from .aside import escaped, has_marks, pieces, set_aside, utf8_pieces
from .items import Marks
from .jsontext import encoded
from .longtext import WINDOW, LazyJson, find_marks, new_mark

#: Bytes of the longest text that takes less memory as a string than as a mark, about.
_SHORT, _SHORT_WIDE = 1024, 128
#: The same for a text whose base64 a translation copies twice.
_SHORT_FILE = 256
#: Pieces of a text that are joined at once: each takes more memory than its characters.
_MANY = 500
#: The first byte of half a surrogate pair, and of a few other characters; and the bytes of which
#: a JSON string, encoded, can have none.
_SURROGATE = b"\xed"
_ESCAPED = bytes(range(32)) + b'"\\' + _SURROGATE


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
        return utf8_pieces(self.value)

    def escaped(self, marks: Marks) -> Iterator[bytes]:
        for piece in utf8_pieces(self.value):
            is_plain = len(piece.translate(None, _ESCAPED)) == len(piece)
            yield piece if is_plain else escaped(piece.decode("utf-8", "surrogatepass"))


class JsonText(_Utf8):
    """The JSON text *value*, in UTF-8, for the mark of a number: its values would take more."""

    def escaped(self, marks: Marks) -> Iterator[bytes]:
        for piece in utf8_pieces(self.value):
            if _SURROGATE in piece:
                piece = piece.decode("utf-8", "surrogatepass").encode("utf-8", "backslashreplace")
            yield piece


class _Converted(LazyJson):
    """A text in another form than *text*, which holds *marks*."""

    __slots__ = ("_marks",)

    def __init__(self, text: str, marks: Marks) -> None:
        super().__init__(text)
        found = find_marks(text.encode("utf-8", "replace"), marks)
        self._marks = {one[0]: marks[one[0]] for one in found}  # all would be a cycle


class Base64(_Converted):
    """The base64 of the UTF-8 of a text."""

    def text(self, marks: Marks) -> Iterator[bytes]:
        rest = b""
        for piece in pieces(self.value, self._marks):
            rest += encoded(piece)
            end = len(rest) // 3 * 3
            yield b64encode(rest[:end])
            rest = rest[end:]
        yield b64encode(rest)

    escaped = text


class _Decoded(_Converted):
    """The text whose UTF-8 is in a base64; without its byte order mark."""

    def text(self, marks: Marks) -> Iterator[bytes]:
        return map(encoded, self._pieces())

    def escaped(self, marks: Marks) -> Iterator[bytes]:
        return map(escaped, self._pieces())

    def _pieces(self) -> Iterator[str]:
        decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        yield from map(decode, decoded_pieces(self.value, self._marks))
        yield decode(b"", True)


def decoded_pieces(data: str, marks: Marks) -> Iterator[bytes]:
    """Yield the bytes whose base64 is *data*, which may hold *marks*; raises binascii.Error."""
    rest = ""
    for piece in pieces(data, marks):
        rest += piece
        end = len(rest) // 4 * 4
        yield b64decode(rest[:end])
        rest = rest[end:]
    yield b64decode(rest)  # raises an error unless it is empty


def decoded_or_mark(data: str, marks: Marks) -> str:
    """Return the text whose UTF-8 is in *data*, base64; or a new mark for it if *data* has *marks*.

    Raises UnicodeDecodeError.
    """
    original = marks.get(data.encode())
    if isinstance(original, Base64):
        return str(original.value)
    if not (marks and has_marks(data)):
        return b64decode(data).decode("utf-8-sig")
    text = _Decoded(data, marks)
    for _ in text.text(marks):
        pass  # checks it
    mark = new_mark()
    marks[mark.encode()] = text
    return mark


def base64_or_mark(text: str, marks: Marks) -> str:
    """Return the base64 of the UTF-8 of *text*; or a new mark for it if *text* is long."""
    if len(text) <= _SHORT_FILE and not (marks and has_marks(text)):
        data = encoded(text)
        if len(data) <= _SHORT_FILE:
            return b64encode(data).decode()
    mark = new_mark()
    marks[mark.encode()] = Base64(text, marks)
    return mark


def utf8_or_mark(text: bytes | bytearray, marks: Marks) -> str:
    """Return *text*, UTF-8 without marks, as a string; or a new mark if that would be long."""
    if len(text) <= (_SHORT if text.isascii() else _SHORT_WIDE):
        return text.decode("utf-8", "surrogatepass")
    mark = new_mark()
    marks[mark.encode()] = _Utf8(text)
    return mark
