"""JSON from strangers: how much it holds is counted before it is parsed.

Python's parser takes as much memory and time, and as deep a stack, as a text asks for, and
no other thread runs meanwhile: 8 MiB of brackets are 180 MB and a second in which all streams
stand still.  So the structure of a text is counted first, a piece at a time (between two
pieces other threads have their turn), and what holds too much is refused.
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

#: How deep arrays and objects may nest.  Requests need about 10; recursive code needs a bound.
MAX_DEPTH = 64
#: How many values a text may hold.  A conversation of 1,000 turns with 100 tools has 30,000.
MAX_VALUES = 100_000

_PIECE = 64 * 1024
#: From this many bytes on a text is read in parts.
_LARGE = 4 * _PIECE


def refuse(constant: str) -> Json:
    """Raise ValueError: Python's own parser lets NaN and Infinity pass, which nobody else reads."""
    raise ValueError(f"{constant} is not JSON")


class Decoder(json.JSONDecoder):
    """Reads JSON texts."""

    def __call__(self, text: str) -> Json:
        """Return the value in *text*, as ``decode`` does.

        White space around objects that have none is not searched for: a third of the time that
        a chunk of a stream takes.
        """
        if text[:1] != "{":
            return self.decode(text)
        try:
            value, end = self.scan_once(text, 0)  # type: ignore[attr-defined]
        except StopIteration as error:
            raise json.JSONDecodeError("Expecting value", text, error.value) from None
        if end != len(text) and text[end:].strip(" \t\r\n"):
            self.decode(text)  # raises that there is more
        return value


#: Reads JSON to the letter.
strict = Decoder(parse_constant=refuse)


class TooMuch(ValueError):
    """A text nests too deep or holds too many values; says which."""


def check_bounds(text: bytes | str, values: int = MAX_VALUES) -> None:
    """Raise TooMuch if *text*, JSON or not, nests deeper or holds more than it may.

    A value is counted by the comma or bracket before it, the members of objects by their
    commas.
    """
    # These are upper bounds, as strings may hold brackets and commas too.
    opened = text.count("[") + text.count("{") if isinstance(text, str) else _opened(text)
    if opened <= MAX_DEPTH:
        if len(text) <= values:
            return
        commas = text.count(",") if isinstance(text, str) else text.count(b",")
        if opened + commas <= values:
            return
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogatepass")
    count = depth = strings = 0
    for quotes, outside in _structure(text):
        strings += quotes
        count += outside.count(b",") + _opened(outside)
        closed = outside.count(b"]") + outside.count(b"}")
        # Strings without commas between them, and more ends than beginnings, are no JSON:
        # they are counted all the same, as this must not take long.
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
    """Yield what is outside of strings, piece by piece, each with its number of quotes."""
    inside = 0
    escaping = b""  # the backslash that a piece ended with
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
    """Return the JSON value in *text*, as *decode* reads it; *errors* as :meth:`bytes.decode` has.

    Raises TooMuch, UnicodeDecodeError, and what *decode* raises; all are ValueErrors.
    """
    check_bounds(text, values)
    if isinstance(text, str):
        return decode(text)
    if len(text) > _LARGE and isinstance(decode, Decoder):
        with suppress(ValueError):  # the other way tells what is wrong
            return large.read(text, decode)
    return decode(text.decode("utf-8", errors))


def whole_number(value: Json) -> int | None:
    """Return the integer that *value* is, also as a float or in a string; None for others."""
    if type(value) is int:
        return value
    digits = isinstance(value, str) and len(value) < 20 and value.isascii() and value.isdigit()
    return int(value) if digits or (isinstance(value, float) and value.is_integer()) else None


def count(value: Json) -> int | None:
    """Return the number of tokens that *value* is; None for whatever else (and for true)."""
    number = value if value is None or type(value) is int else whole_number(value)
    return number if number is not None and number >= 0 else None
