"""Parses untrusted JSON: its values and its depth are counted before it is parsed.

Python's parser has no limit of memory, time or stack, and no other thread runs meanwhile: 8 MiB of
brackets take 180 MB and stop all streams for a second.  So the structure of a text is counted
first, in pieces between which other threads run, and a text with too many values is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from ..late import Late
from .items import Json

if TYPE_CHECKING:
    from . import large
else:
    large = Late("choreo_wsgi.chat.large")

#: Limit of nested arrays and objects.  Requests need about 10; recursive code needs a limit.
MAX_DEPTH = 64
#: Limit of values in a text.  A conversation of 1,000 messages with 100 tools has 30,000.
MAX_VALUES = 100_000

_PIECE = 64 * 1024
#: A longer text is parsed in parts.
LARGE = 4 * _PIECE


def encoded(text: str) -> bytes:
    """Return *text* in UTF-8, which may have halves of surrogate pairs."""
    return text.encode("utf-8", "surrogatepass")


def refuse(constant: str) -> Json:
    """Raise ValueError for NaN and Infinity, which only Python's parser accepts."""
    raise ValueError(f"{constant} is not JSON")


class Decoder(json.JSONDecoder):
    """A JSON decoder that is called as a function."""

    def __call__(self, text: str) -> Json:
        """Return the value in *text*, as ``decode`` does.

        For an object without white space around it this skips the search for white space, which
        is a third of the time that a chunk of a stream takes.
        """
        if text[:1] != "{":
            return self.decode(text)
        try:
            value, end = self.scan_once(text, 0)  # type: ignore[attr-defined]
        except StopIteration as error:
            raise json.JSONDecodeError("Expecting value", text, error.value) from None
        if end != len(text) and text[end:].strip(" \t\r\n"):
            self.decode(text)  # raises "Extra data"
        return value


#: Accepts standard JSON only.
strict = Decoder(parse_constant=refuse)


class TooMuch(ValueError):
    """A text nests too deep or holds too many values; the message names the limit."""


def check_bounds(text: bytes | str, values: int = MAX_VALUES) -> None:
    """Raise TooMuch if *text*, valid JSON or not, nests too deep or holds more than *values*.

    Values are counted by the comma or bracket before them; a member of an object is one.
    """
    # These are upper bounds, as strings may contain brackets and commas too.
    opened = text.count("[") + text.count("{") if isinstance(text, str) else _opened(text)
    if opened <= MAX_DEPTH:
        if len(text) <= values:
            return
        commas = text.count(",") if isinstance(text, str) else text.count(b",")
        if opened + commas <= values:
            return
    if isinstance(text, str):
        text = text.encode()
    count = depth = strings = 0
    for quotes, outside in _structure(text):
        strings += quotes
        count += outside.count(b",") + _opened(outside)
        closed = outside.count(b"]") + outside.count(b"}")
        # Strings without commas between them and excess closing brackets are invalid JSON, but
        # counting them must end soon too.
        if count > values or closed > count or strings > 4 * (values + 1):
            raise TooMuch(f"holds more than {values:,} values")
        for byte in outside.translate(_TO_ARRAYS, _NOT_BRACKETS):
            depth += 1 if byte == _OPEN else -1
            if depth > MAX_DEPTH:
                raise TooMuch(f"nests deeper than {MAX_DEPTH} levels")


_OPEN = ord("[")
_TO_ARRAYS = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _opened(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{")


def _structure(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield, piece by piece, the number of quotes and the bytes outside of strings."""
    inside = 0
    escaping = b""  # the backslash at the end of a piece, whose character is in the next
    for at in range(0, len(text), _PIECE):
        piece = escaping + text[at : at + _PIECE]
        whole = piece.rstrip(b"\\")
        escaping = b"\\" * ((len(piece) - len(whole)) % 2)
        if b"\\" in whole:
            whole = whole.replace(rb"\\", b"").replace(rb"\"", b"")
        parts = whole.split(b'"')
        yield len(parts) - 1, b"".join(parts[inside::2])
        inside ^= (len(parts) - 1) % 2


def parse(
    text: bytes | str,
    decode: Callable[[str], Json] = json.loads,
    values: int = MAX_VALUES,
    errors: str = "strict",
) -> Json:
    """Return the JSON value in *text*, parsed by *decode*; *errors* is that of bytes.decode().

    Raises TooMuch, UnicodeDecodeError and the errors of *decode*; all are ValueErrors.
    """
    check_bounds(text, values)
    if isinstance(text, str):
        return decode(text)
    if len(text) > LARGE and isinstance(decode, Decoder):
        with suppress(ValueError):  # *decode* below reports the error
            return large.read(text, decode)
    return decode(text.decode("utf-8", errors))


def parse_large(
    text: bytes,
    decode: Decoder,
    values: int = MAX_VALUES,
    errors: str = "strict",
    keep: bool = True,
) -> Json:
    """Return the array or object in *text*, as :func:`parse` does, without the exact error.

    It is empty unless *keep*: to check a text takes little memory.
    """
    check_bounds(text, values)
    return large.read(text, decode, errors, keep)


def whole_number(value: Json) -> int | None:
    """Return *value* as an integer if it is one, also as a float or a string; None otherwise."""
    if type(value) is int:
        return value
    digits = isinstance(value, str) and len(value) < 20 and value.isascii() and value.isdigit()
    return int(value) if digits or (isinstance(value, float) and value.is_integer()) else None


def count(value: Json) -> int | None:
    """Return *value* as a number of tokens; None if it is negative or no integer."""
    number = value if value is None or type(value) is int else whole_number(value)
    return number if number is not None and number >= 0 else None
