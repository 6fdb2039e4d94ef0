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
import secrets
from collections.abc import Iterator

from .items import Marks as Marks

#: Bytes that are looked at at once.
WINDOW = 64 * 1024
#: In a shorter text nothing is set aside.
LONG = 2 * WINDOW
#: So long that a string with a mark is too long for whatever has a limit, as a model's name has.
FILLING = "~" * 300
#: How the mark of a string is written, as a regular expression.
MARK = "~[0-9a-f]{32}" + FILLING
#: The mark of numbers is a number: so it begins, which 40 digits follow.
PI = "3141592653589793238462643383279"
_MARKS = re.compile(f"{MARK}|{PI}[0-9]{{40}}".encode())


def new_mark() -> str:
    """Return a mark: nobody can write one that is known here."""
    return f"~{secrets.token_hex(16)}{FILLING}"


def places(text: bytes, marks: Marks) -> Iterator[re.Match[bytes]]:
    """Yield where in *text* those of *marks* stand that are in it."""
    for found in _MARKS.finditer(text) if marks else ():
        if found[0] in marks:
            yield found


def restore(text: bytes, marks: Marks) -> bytes:
    """Return *text*, JSON that was written, with what *marks* stand for in their places."""
    parts: list[bytes | memoryview] = []
    at = 0
    for found in places(text, marks):
        parts += [text[at : found.start()], marks[found[0]]]
        at = found.end()
    return b"".join([*parts, text[at:]]) if parts else text


def original_offset(text: bytes, marks: Marks, offset: int) -> int:
    """Return where the byte at *offset* in a shortened *text* was before."""
    before = (found[0] for found in places(text, marks) if found.end() <= offset)
    return offset + sum(len(marks[mark]) - len(mark) for mark in before)
