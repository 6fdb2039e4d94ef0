"""Long strings and lists of numbers of a JSON text, set aside before it is parsed.

Python holds a text in one, two or four bytes for each character, by its widest: one emoji in
8 MB of ASCII makes 32 MB of it, as often as it is copied; a number of five digits takes 40 bytes.
Most of what passes here is passed on as it came.  So the insides of long strings, and long runs
of numbers, are cut out of the bytes (:mod:`~choreo_wsgi.chat.cutting`), a *mark* is parsed in the
place of each, and :func:`restore` puts the same bytes back into what is written.  What else can be
made of them is in :mod:`~choreo_wsgi.chat.aside`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..ids import random_hex
from .items import FILLING, Json, dump_large
from .items import Marks as Marks

#: Bytes that are looked at at once.
WINDOW = 64 * 1024
#: In a shorter text nothing is set aside.
LONG = 2 * WINDOW
#: How the mark of a string is written, as a regular expression.
MARK = "~[0-9a-f]{32}" + FILLING
#: The mark of numbers is a number: so it begins, which 40 digits follow.
PI = "3141592653589793238462643383279"
_MARKS = re.compile(f"{MARK}|{PI}[0-9]{{40}}".encode())


def new_mark() -> str:
    """Return a mark: nobody can write one that is known here."""
    return f"~{random_hex()}{FILLING}"


def new_number() -> str:
    """Return a mark that is a number in JSON."""
    return f"{PI}{int(random_hex(), 16):040}"


def find_marks(text: bytes, marks: Marks) -> Iterator[re.Match[bytes]]:
    """Yield where in *text* those of *marks* stand that are in it."""
    for found in _MARKS.finditer(text) if marks else ():
        if found[0] in marks:
            yield found


class LazyJson:
    """Stands for the JSON text of *value*, which is written when it is needed.

    So the arguments of a call, an object to one API and a text to another, are there once.
    """

    def __init__(self, value: Json) -> None:
        self.value = value

    def text(self, marks: Marks) -> Iterator[bytes]:
        """Yield the JSON text, piece by piece, with what *marks* stand for."""
        for part in _parts(dump_large(self.value), marks):
            for at in range(0, len(part), WINDOW):
                yield bytes(part[at : at + WINDOW])

    def inside(self, marks: Marks) -> Iterator[bytes]:
        """Yield the text as it stands between the quotes of a JSON string."""
        for piece in self.text(marks):  # control characters are escaped in it already
            yield piece.replace(b"\\", rb"\\").replace(b'"', rb"\"")


def restore(text: bytes, marks: Marks) -> bytes:
    """Return *text*, JSON that was written, with what *marks* stand for in their places."""
    parts = [*_parts(text, marks)]
    return b"".join(parts) if len(parts) > 1 else text


def _parts(text: bytes, marks: Marks) -> Iterator[bytes | memoryview]:
    at, view = 0, memoryview(text)
    for found in find_marks(text, marks):
        between = view[at : found.start()]
        yield bytes(between) if len(between) < 256 else between  # a view takes 184 bytes
        inside = marks[found[0]]
        if isinstance(inside, LazyJson):
            yield from inside.inside(marks)
        else:
            yield inside
        at = found.end()
    yield view[at:]


def original_offset(text: bytes, marks: Marks, offset: int) -> int:
    """Return where the byte at *offset* in a shortened *text* was before."""
    before = (found[0] for found in find_marks(text, marks) if found.end() <= offset)
    return offset + sum(len(restore(mark, marks)) - len(mark) for mark in before)
