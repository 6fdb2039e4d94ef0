"""Cuts long strings out of a JSON text before it is parsed.

See :mod:`~choreo_wsgi.chat.longtext`.  The text is looked at in windows, between which other
threads have their turn.
"""

from __future__ import annotations

import re
from typing import cast

from .items import Marks
from .longtext import WINDOW, new_mark, new_number

#: Shorter strings stay, and runs of numbers that are shorter by FEWER times.
CUT, FEWER = 2 * 1024, 8
#: Shorter strings stay even if they are wide: if one character makes four bytes of each.
_WIDE = 96
#: What a mark takes, about: its text, twice, and what it stands for.
_MARK_SIZE = 270
#: From so many bytes on a view, which holds the whole text, takes less than a copy.
_SHORT = 1024
#: Bytes that stay at the start of a string, as what tells of which kind a picture is, and those
#: at its end.
_HEAD, _TAIL = 256, 8

_DIGITS_ONLY = bytes(set(range(256)) - set(b"0123456789"))
_BLANK = r"[ \t\r\n]*"
_NUMBER = r"(?:0|-?[1-9][0-9]{0,17}|-0(?=\.))(?:\.[0-9]{1,25})?(?:[eE][-+]?[0-9]{1,2})?"
_NUMBERS = re.compile(rf"(?<=[\[,])(?:{_BLANK}{_NUMBER}{_BLANK},){{1,1000}}".encode())

_CONTROLS = bytes(range(32))
_SHORT_ESCAPES = (rb"\n", rb"\t", rb"\r", rb"\/", rb"\b", rb"\f")
_HIGH_SURROGATE = re.compile(rb"\\u[dD][89abAB]..")
_CONTINUATIONS = bytes(range(0x80, 0xC0))
_NOT_ASCII = re.compile(rb"[\x80-\xff]|\\u")
_FOUR_BYTES = re.compile(rb"[\xf0-\xf4]|\\u[dD][89abAB]")
_TWO_BYTES = re.compile(rb"[\xc4-\xef]|\\u(?!00)")
_DIGITS = bytes.maketrans(b"123456789abcdefABCDEF", b"0" * 21)


def shorten(
    text: bytes | bytearray | memoryview, window: int = WINDOW, cut: int = CUT
) -> tuple[bytes, Marks]:
    """Return *text* with marks for what is long in it, and what they stand for.

    What is cut out is what a JSON parser accepts in its place.  A text in which that is not so is
    returned as it is, so that a parser tells what is wrong with it, and where.
    """
    marks: Marks = {}
    as_it_is = cast(bytes, bytes(text) if isinstance(text, memoryview) else text)
    if len(text) <= 2 * window:
        return as_it_is, marks
    view = memoryview(text)
    found: dict[bytes, bytes | memoryview] = {}
    parts: list[bytes | memoryview] = []
    inside = False
    mark = b""
    at = done = start = 0  # the last mark stands for what is from *start* to *done*

    def set_aside(begin: int, end: int, new: str) -> None:
        nonlocal mark, start, done
        mark, start = new.encode(), begin
        parts.extend((_held(view[done:begin]), mark))
        found[mark] = _held(view[begin:end])
        done = end

    while at < len(text):
        plain = masked_window(text, at, window)
        pieces = plain.split(b'"')
        place = at
        at += len(plain)
        least = cut if plain.isascii() and rb"\u" not in plain else min(cut, _WIDE)
        if not inside and max(map(len, pieces)) < least:
            inside = len(pieces) % 2 == 0
            continue
        for number, piece in enumerate(pieces, 1):
            end = place + len(piece)
            goes_on = inside and mark and place == done
            is_long = len(piece) >= cut or (len(piece) >= least and _is_wide(piece))
            if inside and (goes_on or is_long):
                if not _is_inside_a_string(piece):
                    return as_it_is, {}
                tail = bytes(view[end - 2 * _TAIL : end]) if number < len(pieces) else b"\\"
                stop = end - _TAIL if tail.isascii() and b"\\" not in tail else end
                if goes_on:
                    done = max(done, stop)
                    found[mark] = view[start:done]
                elif (begin := place + _head(text, place)) < stop:
                    set_aside(begin, stop, new_mark())
            elif len(piece) >= cut and 3 * len(piece.translate(None, _DIGITS_ONLY)) > len(piece):
                for run in _NUMBERS.finditer(piece):
                    if FEWER * len(run[0]) >= cut:
                        digits = new_number()
                        set_aside(place + run.start(), place + run.end() - 1, digits)
            place = end + 1
            inside = not inside
        inside = not inside
    if not found:
        return as_it_is, marks
    size = sum(map(len, found.values()))
    if 2 * size < len(text) or size < _SHORT * len(found):  # they need not hold all of it
        marks = {mark: bytes(inside) for mark, inside in found.items()}
    return b"".join([*parts, view[done:]]), marks or {**found}


def _held(part: memoryview) -> bytes | memoryview:
    """Return *part*, a copy of it if that takes less."""
    return bytes(part) if len(part) < _SHORT else part


def _head(text: bytes | bytearray | memoryview, at: int) -> int:
    """Return how many bytes stay at the start of a string, none of which makes it wide."""
    head = masked_window(text, at, _HEAD)
    found = _NOT_ASCII.search(head)
    return found.start() if found else len(head)


def _is_wide(plain: bytes) -> bool:
    """Whether the text of *plain* takes more memory than a mark and what it stands for."""
    width = 4 if _FOUR_BYTES.search(plain) else 2 if _TWO_BYTES.search(plain) else 1
    characters = len(plain.translate(None, _CONTINUATIONS)) - 5 * plain.count(rb"\u")
    return width * characters > len(plain) + _MARK_SIZE


def masked_window(text: bytes | bytearray | memoryview, at: int, window: int) -> bytes:
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
