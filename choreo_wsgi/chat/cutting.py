"""Cuts long strings and runs of numbers out of a JSON text before it is parsed.

The reason is in :mod:`~choreo_wsgi.chat.longtext`.  The text is searched in windows, so that other
threads run in between.  The escaped quotes of a window are masked first; splitting it at the
remaining quotes then yields pieces that are alternately outside and inside of strings.  A long
piece inside a string is replaced by a mark (a placeholder), and so is a long run of numbers outside
of strings.  If a cut string continues in the next window, its mark is extended.
"""

from __future__ import annotations

import io
import re
from typing import cast

from .items import Marks
from .jsontext import TooMuch
from .longtext import PI, WINDOW, new_mark, new_number

#: Bytes of the shortest string that is cut out.  As numbers take more memory for each byte, a run
#: of numbers is cut out from a _NUMBER_FACTOR-th of that on.
CUT, _NUMBER_FACTOR = 2 * 1024, 8
#: Bytes of the shortest string that is cut out because a wide character makes all of it wide.
_WIDE = 96
#: Bytes of memory for a mark, about: its text, twice, and the entry for the bytes cut out.
_MARK_SIZE = 270
#: From this many bytes on, a view that keeps the whole text alive takes less memory than a copy.
_SHORT = 1024
#: Bytes of a string that are kept before its mark, such as the type of a data: URL, and after it.
_HEAD, _TAIL = 256, 8

_DIGITS_ONLY = bytes(set(range(256)) - set(b"0123456789"))
_BLANK = r"[ \t\r\n]*"
_NUMBER = r"(?:0|-?[1-9][0-9]{0,17}|-0(?=\.))(?:\.[0-9]{1,25})?(?:[eE][-+]?[0-9]{1,2})?"
_NUMBERS = re.compile(rf"(?<=[\[,])(?:{_BLANK}{_NUMBER}{_BLANK},){{1,1000}}".encode())

_LINE_END, _NUMERAL = re.compile(rb"[\r\n]"), PI.encode()
_CONTROLS = bytes(range(32))
_SHORT_ESCAPES = (rb"\n", rb"\t", rb"\r", rb"\/", rb"\b", rb"\f")
_HIGH_SURROGATE = re.compile(rb"\\u[dD][89abAB]..")
_CONTINUATIONS = bytes(range(0x80, 0xC0))
_NOT_ASCII = re.compile(rb"[\x80-\xff]|\\u")
_FOUR_BYTES = re.compile(rb"[\xf0-\xf4]|\\u[dD][89abAB]")
_TWO_BYTES = re.compile(rb"[\xc4-\xef]|\\u(?!00)")
# A string that is four times as wide, or twice beside many characters of one byte.
_WIDE_STRING = re.compile(
    rb"(?:[\xf0-\xf4]|\\u[dD][89abAB]|(?:[\xc4-\xef]..?|\\u(?!00)....)[ !#-\[\]-~]{48}"
    rb"|\"[ !#-\[\]-~]{48,96}(?:[\xc4-\xef]|\\u(?!00)))[^\"]*"
)
#: How many values more a part, call or item of a kind counts as: what is made of it takes more.
_COSTLY = {
    **dict.fromkeys((b"document", b"custom_tool_call", b"tool_search_call"), 6),
    **dict.fromkeys((b"image", b"image_url", b"file_data", b"file_url", b"search_result"), 3),
    **dict.fromkeys((b"tool_use", b"function_call_output"), 3),
}
_KIND = re.compile(b'"(%b)"' % b"|".join(_COSTLY))
#: So many escapes, beyond one in _FEW bytes, count as a value more: the arguments of a call are a
#: text in other APIs, in which each is escaped again.
_ESCAPES, _FEW = 128, 16
_DIGITS = bytes.maketrans(b"123456789abcdefABCDEF", b"0" * 21)


def shorten(
    text: bytes | bytearray | memoryview,
    window: int = WINDOW,
    cut: int = CUT,
    wide: int = _WIDE,
    most: int = 0,
) -> tuple[bytes, Marks]:
    """Return *text* with marks in place of its long parts, and the parts by their marks.

    Only valid JSON is cut out.  If a long part is invalid, *text* is returned unchanged, so that
    the parser reports the error and its position.  Raises TooMuch for more than *most* marks,
    unless that is 0.
    """

    def unchanged() -> tuple[bytes, Marks]:
        return cast(bytes, bytes(text) if isinstance(text, memoryview) else text), {}

    if len(text) <= 2 * window:
        return unchanged()
    view = memoryview(text)
    found: dict[bytes, bytes | memoryview] = {}
    short = io.BytesIO()
    in_string = False
    mark = b""
    at = start = done = 0  # the last mark replaces text[start:done]

    def set_aside(begin: int, end: int, new: str) -> None:
        nonlocal mark, start, done
        mark, start = new.encode(), begin
        short.writelines((view[done:begin], mark))
        found[mark] = _copy_if_short(view[begin:end])
        done = end
        if most and len(found) > most:
            raise TooMuch(f"holds more than {most:,} long strings")

    while at < len(text):
        masked = masked_window(text, at, window)
        pieces = masked.split(b'"')
        begin = at
        at += len(masked)
        least = cut if masked.isascii() and rb"\u" not in masked else min(cut, wide)
        if not in_string and max(map(len, pieces)) < least:
            in_string = len(pieces) % 2 == 0
            continue
        for number, piece in enumerate(pieces, 1):
            end = begin + len(piece)
            extends = in_string and mark and begin == done  # the string that the last mark cut
            is_long = len(piece) >= cut or (len(piece) >= least and _is_wide(piece))
            if in_string and (extends or is_long):
                if not _is_valid_in_string(piece):
                    return unchanged()
                tail = bytes(view[end - 2 * _TAIL : end]) if number < len(pieces) else b"\\"
                stop = end - _TAIL if tail.isascii() and b"\\" not in tail else end
                if extends:
                    done = max(done, stop)
                    found[mark] = view[start:done]
                elif (first := begin + _head_size(text, begin)) < stop:
                    set_aside(first, stop, new_mark())
            elif len(piece) >= cut and 3 * len(piece.translate(None, _DIGITS_ONLY)) > len(piece):
                for run in _NUMBERS.finditer(piece):
                    if _NUMBER_FACTOR * len(run[0]) >= cut:
                        set_aside(begin + run.start(), begin + run.end() - 1, new_number())
            begin = end + 1
            in_string = not in_string
        in_string = not in_string  # no quote ends the last piece
    if not found:
        return unchanged()
    size = sum(map(len, found.values()))
    if 10 * size < 9 * len(text) or size < _SHORT * len(found):  # views keep all of it alive
        found = {mark: bytes(part) for mark, part in found.items()}
    short.write(view[done:])
    return short.getvalue(), {**found}


def on_one_line(found: Marks) -> Marks:
    """Return the runs of numbers in *found*, in which spaces replace line ends."""
    runs = ((mark, part) for mark, part in found.items() if mark.startswith(_NUMERAL))
    return {mark: _LINE_END.sub(b" ", cast(bytes, part)) for mark, part in runs}


def is_little(text: bytes, short: bytes, marks: Marks) -> bool:
    """Return whether *marks* make *text* little shorter, and are neither wide nor numbers."""
    little = 4 * len(short) > 3 * len(text)
    are_texts = not any(mark.startswith(_NUMERAL) for mark in marks)
    return little and are_texts and text.isascii() and rb"\u" not in text


def count_more(text: bytes, marks: Marks) -> int:
    """Return how many values more than it has *text*, with *marks*, counts as."""
    windows = range(0, len(text), WINDOW)  # other threads run in between
    costly = (_COSTLY[kind] for at in windows for kind in _KIND.findall(text, at, at + WINDOW))
    escapes = max(0, text.count(b"\\") - len(text) // _FEW) // _ESCAPES
    return sum(costly) + 7 * (len(marks) + count_wide(text)) // 2 + escapes


def count_wide(text: bytes) -> int:
    """Return about how many strings of *text* a character makes much wider."""
    if text.isascii() and rb"\u" not in text:
        return 0
    windows = range(0, len(text), WINDOW)  # other threads run in between
    return sum(len(_WIDE_STRING.findall(text, at, at + WINDOW)) for at in windows)


def count_holders(text: bytes) -> int:
    """Return about how many strings, arrays and objects *text* has."""
    return text.count(b'"') // 2 + text.count(b"[") + text.count(b"{")


def _copy_if_short(part: memoryview) -> bytes | memoryview:
    return bytes(part) if len(part) < _SHORT else part


def _head_size(text: bytes | bytearray | memoryview, at: int) -> int:
    """Return how many bytes of the string at *at* stay before its mark: all of them are ASCII."""
    head = masked_window(text, at, _HEAD)
    found = _NOT_ASCII.search(head)
    return found.start() if found else len(head)


def _is_wide(masked: bytes) -> bool:
    """Whether the string in *masked* takes more memory than a mark and the bytes cut out."""
    return weight(masked) > len(masked) + _MARK_SIZE


def weight(text: bytes) -> int:
    """Return about how many bytes the string with *text* between its quotes takes in memory."""
    width = 4 if _FOUR_BYTES.search(text) else 2 if _TWO_BYTES.search(text) else 1
    return width * (len(text.translate(None, _CONTINUATIONS)) - 5 * text.count(rb"\u"))


def masked_window(text: bytes | bytearray | memoryview, at: int, window: int) -> bytes:
    """Return at most *window* bytes of *text* from *at* on, with escaped quotes masked.

    Every quote in the result begins or ends a string.  It ends neither within an escape or a
    character nor between the two escapes of a surrogate pair.
    """
    end = at + window
    for _ in range(3):
        if end < len(text) and text[end] & 0xC0 == 0x80:
            end -= 1
    masked = bytes(text[at:end])
    if b"\\" not in masked:
        return masked
    masked = masked.replace(rb"\\", b"__").replace(rb"\"", b"__")
    if end < len(text) and (escape := masked.rfind(b"\\", -5)) > 0:
        masked = masked[:escape]
    if len(masked) > 6 and end < len(text) and _HIGH_SURROGATE.match(masked, len(masked) - 6):
        masked = masked[:-6]
    return masked


def _is_valid_in_string(masked: bytes) -> bool:
    """Whether a JSON parser accepts *masked*, which has no quotes, inside a string."""
    if len(masked.translate(None, _CONTROLS)) != len(masked):
        return False
    escapes = masked.count(b"\\")
    if escapes and rb"\u" in masked:
        escapes -= masked.translate(_DIGITS).count(rb"\u0000")
    for escape in _SHORT_ESCAPES:
        if not escapes:
            break
        escapes -= masked.count(escape)
    if escapes:
        return False
    try:
        masked.decode()
    except UnicodeDecodeError:
        return False
    return True
