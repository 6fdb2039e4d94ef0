"""Log probabilities of a large answer, set aside before it is parsed.

With the 20 likeliest beside it one token has 170 values, and an answer of 2,000 tokens 340,000,
which take 40 MB as Python's objects.  Nobody reads them where the answer is passed on in the
words it came in: so the elements of their lists are cut out of the bytes as long strings are,
see :mod:`~choreo_wsgi.chat.longtext`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import cast

from ..chat.aside import shorten_into as shorten_strings
from ..chat.items import Marks
from ..chat.jsontext import MAX_VALUES, check_bounds
from ..chat.longtext import LONG, WINDOW, new_number
from .reading import decode

#: Lists that are shorter stay.
_CUT = 2 * 1024
#: So many lists are looked at: each of 128 choices may have one.
_MOST = 128
_BLANK = re.compile(r"[ \t\r\n]*")
#: Within a string there is a backslash before each quote.
_MEMBER = re.compile(rb'"logprobs"[ \t\r\n]*:[ \t\r\n]*(?:\{|\[(?![ \t\r\n]*\]))')
_LIST = re.compile(
    rb'[ \t\r\n,]*"[a-z_]{1,32}"[ \t\r\n]*:[ \t\r\n]*(?:null|\[[ \t\r\n]*\]|(\[))[ \t\r\n]*'
)


def shorten_into(marks: Marks, text: bytes) -> bytes:
    """Return *text*, JSON, without log probabilities and long strings, for which *marks* stand.

    What they stand for is put there.
    """
    short, found = shorten(text)
    marks |= found
    return shorten_strings(marks, short)


def shorten(text: bytes | memoryview) -> tuple[bytes, Marks]:
    """Return *text* with marks for what is in long lists of log probabilities, and what they are.

    What is cut out are elements that a JSON parser accepts.  A text in which that is not so is
    returned as it is, so that a parser tells what is wrong with it.
    """
    marks: Marks = {}
    as_it_is = cast(bytes, text)
    if len(text) <= LONG:
        return as_it_is, marks
    view = memoryview(text)
    parts: list[bytes | memoryview] = []
    done = 0
    try:
        for begin, end in islice(_lists(text), _MOST):
            if end - begin >= _CUT:
                mark = new_number().encode()
                parts += (view[done:begin], mark)
                marks[mark], done = view[begin:end], end
    except ValueError:
        return as_it_is, {}
    return b"".join((*parts, view[done:])) if marks else as_it_is, marks


def _lists(text: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """Yield where the elements of each list of log probabilities in *text* begin and end."""
    at = 0
    left = iter(range(MAX_VALUES))
    while found := _MEMBER.search(text, at):
        at = found.end()
        if text[found.start() - 1 : found.start()] == b"\\":
            continue
        if text[at - 1 : at] == b"[":
            begin, at = at, _end(text, at, left)
            yield begin, at
            continue
        while found := _LIST.match(text, at):  # an object of lists, as in chat
            at = found.end()
            if found[1]:
                begin, at = found.end(1), _end(text, found.end(1), left)
                yield begin, at
                at += 1


def _end(text: bytes | memoryview, at: int, left: Iterator[int]) -> int:
    """Return where the elements end of the list whose first begins at *at*.

    They are read one by one, as characters of one byte each, and dropped.  Raises ValueError for
    what is no JSON, for elements larger than a window, and for more than are *left* to be read.
    """
    size = _CUT
    while True:
        window = bytes(text[at : at + size])
        check_bounds(window)
        piece, read, symbol = window.decode("latin-1"), 0, ","
        while symbol == ",":
            try:
                place = _after_blanks(piece, read)
                place = _after_blanks(piece, decode.raw_decode(piece, place)[1])
            except ValueError:
                break
            symbol = piece[place : place + 1]
            if symbol == "]":
                window[:place].decode()
                return at + place
            if symbol == ",":
                read = place + 1
                if next(left, None) is None:
                    raise ValueError("too many elements")
        if symbol not in ("", ",") or (not read and size == WINDOW):
            raise ValueError("not a list of small elements")
        window[:read].decode()
        at, size = at + read, WINDOW


def _after_blanks(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at
