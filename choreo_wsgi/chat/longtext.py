"""Long strings and lists of numbers of a JSON text, set aside before it is parsed.

Python holds a text in one, two or four bytes for each character, by its widest: one emoji in
8 MB of ASCII makes 32 MB of it, as often as it is copied; a number of five digits takes 40 bytes.
Most of what passes here is passed on as it came.  So the insides of long strings, and long runs
of numbers, are cut out of the bytes, a *mark* is parsed in the place of each, and :func:`restore`
puts the same bytes back into what is written.  What else can be made of them is in
:mod:`~choreo_wsgi.chat.aside`.

The text is looked at in windows, between which other threads have their turn.
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
#: Shorter strings stay, and runs of numbers that are shorter by FEWER times.
CUT, FEWER = 2 * 1024, 8
#: Bytes that stay at the start of a string, as what tells of which kind a picture is, and those
#: at its end.
_HEAD, _TAIL = 256, 8

#: So long that a string with a mark is too long for whatever has a limit, as a model's name has.
FILLING = "~" * 300
#: How the mark of a string is written, as a regular expression.
MARK = "~[0-9a-f]{32}" + FILLING
#: The mark of numbers is a number: so it begins, which 40 digits follow.
PI = "3141592653589793238462643383279"
_MARKS = re.compile(f"{MARK}|{PI}[0-9]{{40}}".encode())

_DIGITS_ONLY = bytes(set(range(256)) - set(b"0123456789"))
_BLANK = r"[ \t\r\n]*"
_NUMBER = r"(?:0|-?[1-9][0-9]{0,17}|-0(?=\.))(?:\.[0-9]{1,25})?(?:[eE][-+]?[0-9]{1,2})?"
_NUMBERS = re.compile(rf"(?<=[\[,])(?:{_BLANK}{_NUMBER}{_BLANK},){{1,1000}}".encode())

_CONTROLS = bytes(range(32))
_SHORT_ESCAPES = (rb"\n", rb"\t", rb"\r", rb"\/", rb"\b", rb"\f")
_HIGH_SURROGATE = re.compile(rb"\\u[dD][89abAB]..")
_DIGITS = bytes.maketrans(b"123456789abcdefABCDEF", b"0" * 21)


def shorten(
    text: bytes | bytearray | memoryview, window: int = WINDOW, cut: int = CUT
) -> tuple[bytes, Marks]:
    """Return *text* with marks for what is long in it, and what they stand for.

    What is cut out is what a JSON parser accepts in its place.  A text in which that is not so is
    returned as it is, so that a parser tells what is wrong with it, and where.
    """
    marks: Marks = {}
    if len(text) <= 2 * window:
        return bytes(text), marks
    view = memoryview(text)
    parts: list[bytes | memoryview] = []
    inside = False
    mark = b""
    at = done = start = 0  # the last mark stands for what is from *start* to *done*

    def set_aside(begin: int, end: int, new: str) -> None:
        nonlocal mark, start, done
        mark, start = new.encode(), begin
        parts.extend((view[done:begin], mark))
        marks[mark] = view[begin:end]
        done = end

    while at < len(text):
        plain = without_quotes(text, at, window)
        pieces = plain.split(b'"')
        place = at
        at += len(plain)
        if not inside and max(map(len, pieces)) < cut:
            inside = len(pieces) % 2 == 0
            continue
        for number, piece in enumerate(pieces, 1):
            end = place + len(piece)
            goes_on = inside and mark and place == done
            if inside and (goes_on or len(piece) >= cut):
                if not _is_inside_a_string(piece):
                    return bytes(text), {}
                tail = piece[-2 * _TAIL :] if number < len(pieces) else b"\\"
                stop = end - _TAIL if tail.isascii() and b"\\" not in tail else end
                if goes_on:
                    done = max(done, stop)
                    marks[mark] = view[start:done]
                elif (begin := place + len(without_quotes(text, place, _HEAD))) < stop:
                    set_aside(begin, stop, new_mark())
            elif len(piece) >= cut and 3 * len(piece.translate(None, _DIGITS_ONLY)) > len(piece):
                for run in _NUMBERS.finditer(piece):
                    if FEWER * len(run[0]) >= cut:
                        digits = f"{PI}{secrets.randbelow(10**40):040}"
                        set_aside(place + run.start(), place + run.end() - 1, digits)
            place = end + 1
            inside = not inside
        inside = not inside
    return b"".join([*parts, view[done:]]) if marks else bytes(text), marks


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
