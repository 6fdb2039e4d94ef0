"""Long strings and lists of numbers, set aside from a JSON text before it is parsed.

Python stores each character of a text in one, two or four bytes, as its widest needs: one emoji in
8 MB of ASCII makes every copy 32 MB; a number of five digits takes 40 bytes.  Most of a request or
an answer is forwarded unchanged.  So the insides of long strings, and long runs of numbers, are cut
out of the bytes (:mod:`~choreo_wsgi.chat.cutting`), and a *mark* (a placeholder: a short string or
a number) is parsed in place of each.  :func:`restore` puts the same bytes back into the JSON that
is written.  :mod:`~choreo_wsgi.chat.aside` reads them where a text is translated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..ids import random_hex
from ..late import Late
from .items import FILLING, Json, dump, has_many
from .items import Marks as Marks

if TYPE_CHECKING:
    from . import large
else:
    large = Late("choreo_wsgi.chat.large")

#: Bytes that are processed at once.
WINDOW = 64 * 1024
#: Nothing is set aside from a shorter text.
LONG = 2 * WINDOW
#: Regular expression of the mark of a string.
MARK = "~[0-9a-f]{32}" + FILLING
#: First digits of the mark of a run of numbers; 40 more follow.
PI = "3141592653589793238462643383279"
_FILLING, _PI = FILLING.encode(), PI.encode()
_MARKS = re.compile(f"{MARK}|{PI}[0-9]{{40}}".encode())


def new_mark() -> str:
    """Return a new mark for a string, which no client or provider can guess."""
    return f"~{random_hex()}{FILLING}"


def new_number() -> str:
    """Return a new mark for a run of numbers, itself a number in JSON."""
    return f"{PI}{int(random_hex(), 16):040}"


def find_marks(text: bytes, marks: Marks) -> Iterator[re.Match[bytes]]:
    """Yield a match for each occurrence of one of *marks* in *text*."""
    # Most texts have no mark, which is found out ten times faster without the expression.
    if marks and (_FILLING in text or _PI in text):
        for found in _MARKS.finditer(text):
            if found[0] in marks:
                yield found


class LazyJson:
    """The JSON text of *value*, encoded only when it is needed.

    The arguments of a call are an object in one API and a text in another; this keeps one copy.
    """

    __slots__ = ("value",)

    def __init__(self, value: Json) -> None:
        self.value = value

    def text(self, marks: Marks) -> Iterator[bytes]:
        """Yield the JSON text in pieces, with *marks* restored."""
        return large.pieces(self.value, marks)

    def escaped(self, marks: Marks) -> Iterator[bytes | memoryview]:
        """Yield the text, escaped for the inside of a JSON string."""
        for piece in self.text(marks):  # JSON has its control characters escaped already
            yield piece.replace(b"\\", rb"\\").replace(b'"', rb"\"")


def dump_pieces(value: Json, marks: Marks) -> bytes | list[bytes | memoryview]:
    """Return *value* as JSON with *marks* restored, a long text in pieces."""
    if not (marks or has_many(value)):
        return dump(value)
    some = list(large.pieces_to_send(value, marks))
    return some if len(some) > 1 else bytes(some[0])


def restore(text: bytes, marks: Marks) -> bytes:
    """Return *text*, encoded JSON, with each of *marks* replaced by the bytes cut out."""
    if next(find_marks(text, marks), None) is None:
        return text
    return large.join(restored(text, marks))


def restored(text: bytes, marks: Marks) -> Iterator[bytes | memoryview]:
    """Yield the parts of what :func:`restore` returns."""
    at, view = 0, memoryview(text)
    for found in find_marks(text, marks):
        between = view[at : found.start()]
        yield bytes(between) if len(between) < 256 else between  # a view takes 184 bytes
        original = marks[found[0]]
        if isinstance(original, LazyJson):
            yield from original.escaped(marks)
        else:
            yield original
        at = found.end()
    yield view[at:]


def original_offset(text: bytes, marks: Marks, offset: int) -> int:
    """Return the offset in the original text of the byte at *offset* in the shortened *text*."""
    before = (found[0] for found in find_marks(text, marks) if found.end() <= offset)
    return offset + sum(len(restore(mark, marks)) - len(mark) for mark in before)
