"""Long strings of a JSON text, set aside before it is parsed.

Python holds a text in one, two or four bytes for each character, by its widest: one emoji in
8 MB of ASCII makes 32 MB of it, as often as it is copied.  Most of what passes here is passed on
as it came.  So the insides of long strings are cut out of the bytes, a *mark* is parsed in the
place of each, and :func:`restore` puts the same bytes back into what is written.  What else can
be made of them is in :mod:`~choreo_wsgi.chat.aside`.

The text is looked at in windows, between which other threads have their turn.
"""

from __future__ import annotations

import re
import secrets

from .items import Marks as Marks

#: Bytes that are looked at at once.  Of a string are cut out the windows that lie inside of it.
WINDOW = 64 * 1024
#: In a shorter text nothing is set aside.
LONG = 2 * WINDOW

#: So long that a string with a mark is too long for whatever has a limit, as a model's name has.
FILLING = "~" * 300
#: How a mark is written, as a regular expression.
MARK = "~[0-9a-f]{32}" + FILLING
_MARK_BYTES = re.compile(MARK.encode())

_CONTROLS = bytes(range(32))
_SHORT_ESCAPES = (rb"\n", rb"\t", rb"\r", rb"\/", rb"\b", rb"\f")
_HIGH_SURROGATE = re.compile(rb"\\u[dD][89abAB]..")
_DIGITS = bytes.maketrans(b"123456789abcdefABCDEF", b"0" * 21)


def shorten(text: bytes | bytearray | memoryview, window: int = WINDOW) -> tuple[bytes, Marks]:
    """Return *text* with marks for the insides of long strings, and what they stand for.

    What is cut out is what a JSON parser accepts in a string.  A text in which that is not so is
    returned as it is, so that a parser tells what is wrong with it, and where.
    """
    marks: Marks = {}
    if len(text) <= 2 * window:
        return bytes(text), marks
    view = memoryview(text)
    parts: list[bytes | memoryview] = []
    inside = False
    at = done = start = 0  # from *start* on all is inside of one string
    while at < len(text):
        plain = without_quotes(text, at, window)
        end = at + len(plain)
        quotes = plain.count(b'"')
        if quotes or not inside:
            if start < at:
                mark = new_mark().encode()
                marks[mark] = view[start:at]
                parts += [view[done:start], mark]
                done = at
            inside ^= bool(quotes % 2)
            start = end
        elif not _is_inside_a_string(plain):
            return bytes(text), {}
        at = end
    return b"".join([*parts, view[done:]]), marks


def new_mark() -> str:
    """Return a mark: nobody can write one that is known here."""
    return f"~{secrets.token_hex(16)}{FILLING}"


def restore(text: bytes, marks: Marks) -> bytes:
    """Return *text*, JSON that was written, with what *marks* stand for in their places."""
    parts: list[bytes | memoryview] = []
    at = 0
    for found in _MARK_BYTES.finditer(text) if marks else ():
        if found[0] in marks:
            parts += [text[at : found.start()], marks[found[0]]]
            at = found.end()
    return b"".join([*parts, text[at:]]) if parts else text


def original_offset(text: bytes, marks: Marks, offset: int) -> int:
    """Return where the byte at *offset* in a shortened *text* was before."""
    places = _MARK_BYTES.finditer(text) if marks else ()
    before = (found[0] for found in places if found.end() <= offset and found[0] in marks)
    return offset + sum(len(marks[mark]) - len(mark) for mark in before)


def without_quotes(text: bytes | bytearray | memoryview, at: int, window: int) -> bytes:
    """Return a window of *text*, of the same length, in which only the ends of strings are quotes.

    It ends neither in an escape nor in a character, nor between two that are one character.
    """
    end = at + window
    for _ in range(3):
        if end < len(text) and text[end] & 0xC0 == 0x80:
            end -= 1
    plain = bytes(text[at:end])
    if b"\\" not in plain:
        return plain
    plain = plain.replace(rb"\\", b"__").replace(rb"\"", b"__")
    if end < len(text) and (escape := plain.rfind(b"\\", -5)) > 0:
        plain = plain[:escape]
    if len(plain) > 6 and end < len(text) and _HIGH_SURROGATE.match(plain, len(plain) - 6):
        plain = plain[:-6]
    return plain


def _is_inside_a_string(plain: bytes) -> bool:
    """Whether a JSON parser accepts *plain*, without quotes, inside of a string."""
    if len(plain.translate(None, _CONTROLS)) != len(plain):
        return False
    escapes = plain.count(b"\\")
    if escapes and rb"\u" in plain:
        escapes -= plain.translate(_DIGITS).count(rb"\u0000")
    for escape in _SHORT_ESCAPES:
        if not escapes:
            break
        escapes -= plain.count(escape)
    if escapes:
        return False
    if plain.isascii():
        return True
    try:
        plain.decode()
    except UnicodeDecodeError:
        return False
    return True
