"""Log probabilities of a large answer, set aside before it is parsed.

With its 20 most likely alternatives one token has 170 values, and an answer of 2,000 tokens has
340,000, which take 40 MB as Python objects.  Nothing reads them if the answer is forwarded in the
API that it came in.  So the elements of their lists are cut out of the bytes and replaced by
marks, as long strings are, see :mod:`~choreo_wsgi.chat.longtext`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import cast

from ..chat.aside import shorten_into as shorten_strings
from ..chat.items import Json, Marks
from ..chat.jsontext import MAX_VALUES, TooMuch, check_bounds
from ..chat.longtext import LONG, WINDOW, new_number
from .reading import decode, most_values, parse_object, unknown_shape
from .weight import most_marks

#: Lists of fewer bytes are not set aside.
_SHORTEST = 2 * 1024
#: Limit of lists that are searched for: each of 128 choices may have one.
_MOST_LISTS = 128
_BLANK = re.compile(r"[ \t\r\n]*")
# A match inside a JSON string has a backslash before its first quote, see _lists.
_MEMBER = re.compile(rb'"logprobs"[ \t\r\n]*:[ \t\r\n]*(?:\{|\[(?![ \t\r\n]*\]))')
#: A member of the object that chat has: ``null``, an empty list or (group 1) the start of a list.
_LIST = re.compile(
    rb'[ \t\r\n,]*"[a-z_]{1,32}"[ \t\r\n]*:[ \t\r\n]*(?:null|\[[ \t\r\n]*\]|(\[))[ \t\r\n]*'
)


def parse_into(marks: Marks, data: bytes) -> dict[str, Json]:
    """Return the JSON object in *data* with marks for its log probabilities and long strings.

    The bytes that the marks stand for are added to *marks*.  Raises UpstreamInvalid.
    """
    try:
        short = shorten_into(marks, data) if len(data) > LONG else data
    except TooMuch as error:
        raise unknown_shape(error) from error
    return parse_object(short, most_values(short, len(marks), len(data)))


def shorten_into(marks: Marks, text: bytes) -> bytes:
    """Return the JSON *text* with marks for its log probabilities and long strings.

    The bytes that the marks stand for are added to *marks*.  Raises TooMuch for too many.
    """
    short, found = shorten(text)
    marks |= found
    return shorten_strings(marks, short, most_marks(len(text)))


def shorten(text: bytes | memoryview) -> tuple[bytes, Marks]:
    """Return the JSON *text* with marks for the elements of long lists of log probabilities.

    Returns the bytes that they stand for too.  Only elements that a JSON parser accepts are cut
    out.  Otherwise *text* is returned unchanged, so that the parser reports the error in it.
    """
    marks: Marks = {}
    unchanged = cast(bytes, text)
    if len(text) <= LONG:
        return unchanged, marks
    view = memoryview(text)
    parts: list[bytes | memoryview] = []
    done = 0
    try:
        for begin, end in islice(_lists(text), _MOST_LISTS):
            if end - begin >= _SHORTEST:
                mark = new_number().encode()
                parts += (view[done:begin], mark)
                marks[mark], done = view[begin:end], end
    except ValueError:
        return unchanged, {}
    return b"".join((*parts, view[done:])) if marks else unchanged, marks


def _lists(text: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """Yield the start and end of the elements of each list of log probabilities in *text*."""
    at = 0
    allowance = iter(range(MAX_VALUES))
    while found := _MEMBER.search(text, at):
        at = found.end()
        if text[found.start() - 1 : found.start()] == b"\\":
            continue
        if text[at - 1 : at] == b"[":
            begin, at = at, _end_of_list(text, at, allowance)
            yield begin, at
            continue
        while found := _LIST.match(text, at):  # an object of lists, as in chat
            at = found.end()
            if found[1]:
                begin, at = found.end(1), _end_of_list(text, found.end(1), allowance)
                yield begin, at
                at += 1


def _end_of_list(text: bytes | memoryview, at: int, allowance: Iterator[int]) -> int:
    """Return the position of the bracket that ends the list whose first element begins at *at*.

    The elements are parsed one by one, decoded as Latin-1 so that offsets are those of bytes, and
    dropped.  Raises ValueError for invalid JSON, for elements larger than a window, and once
    *allowance*, which has one item for each element that may be read, is exhausted.
    """
    size = _SHORTEST
    while True:
        window = bytes(text[at : at + size])
        check_bounds(window)
        piece, done, symbol = window.decode("latin-1"), 0, ","
        while symbol == ",":
            try:
                place = _after_blanks(piece, done)
                place = _after_blanks(piece, decode.raw_decode(piece, place)[1])
            except ValueError:
                break
            symbol = piece[place : place + 1]
            if symbol == "]":
                window[:place].decode()
                return at + place
            if symbol == ",":
                done = place + 1
                if next(allowance, None) is None:
                    raise ValueError("too many elements")
        if symbol not in ("", ",") or (not done and size == WINDOW):
            raise ValueError("not a list of small elements")
        window[:done].decode()  # raises UnicodeDecodeError, a ValueError
        at, size = at + done, WINDOW


def _after_blanks(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at
