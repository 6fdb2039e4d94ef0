"""Large JSON objects, read and written in parts: neither is ever there as a whole text.

One wide character makes all of a text wide, and each step of a way through texts is one more copy.
So the elements of long lists, as the turns of a conversation, are read, and written, one after the
other.
"""

from __future__ import annotations

import codecs
import io
import json
import re
import sys
from collections.abc import Callable
from typing import Any

#: Bytes that are decoded at once.
WINDOW = 64 * 1024
#: Elements of a list that are written at once.
AT_ONCE = 64


def read(text: bytes, decoder: json.JSONDecoder) -> Any:
    """Return the object in *text* as *decoder* reads it.

    The members of the object, and the elements of those that are arrays, are read one after the
    other.  Raises ValueError for whatever is wrong, and for all that is no object.
    """
    window = _Window(text, decoder.raw_decode)
    window.expect("{")
    members: list[tuple[str, Any]] = []
    symbol = ","
    while symbol == ",":
        name = window.value()
        window.expect(":")
        members.append((name, window.array() if window.peek() == "[" else window.value()))
        symbol = window.symbol()
    if symbol != "}" or window.rest() or not all(type(name) is str for name, _ in members):
        raise ValueError("not an object")
    hook = decoder.object_pairs_hook
    return dict(members) if hook is None else hook(members)


def write(value: Any, dump: Callable[[Any], bytes]) -> bytes:
    """Return *value* as JSON, of which *dump* writes the parts: what has no part that has parts."""
    written = io.BytesIO()

    def put(value: Any) -> None:
        is_object = isinstance(value, dict)
        inner = value.values() if is_object else value if isinstance(value, list) else ()
        if len(inner) < AT_ONCE and not any(isinstance(one, dict | list) for one in inner):
            written.write(dump(value))
            return
        before = b"{" if is_object else b"["
        for one in value:
            written.write(before + dump(one) + b":" if is_object else before)
            put(value[one] if is_object else one)
            before = b","
        written.write(b"}" if is_object else b"]")

    put(value)
    return written.getvalue()


class _Window:
    """The part of *text* that is being read; *scan* reads the value at a place in it."""

    def __init__(self, text: bytes, scan: Callable[[str, int], tuple[Any, int]]) -> None:
        self._bytes = text
        self._scan = scan
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._decoded = self._at = 0
        self._text = ""

    def _grow(self) -> None:
        """Have more of the text, twice as much if nothing was read; raises ValueError for none."""
        size = max(WINDOW, len(self._text) - self._at)
        piece = self._bytes[self._decoded : self._decoded + size]
        if not piece:
            raise ValueError("it ends too early")
        self._decoded += len(piece)
        self._text = self._text[self._at :] + self._decoder.decode(piece)
        self._at = 0

    def peek(self) -> str:
        """Return the next character that is not blank."""
        while True:
            found = _NOT_BLANK.search(self._text, self._at)
            if found is not None:
                self._at = found.start()
                return found[0]
            self._at = len(self._text)
            self._grow()

    def symbol(self) -> str:
        """Return the next character that is not blank, and pass it."""
        symbol = self.peek()
        self._at += 1
        return symbol

    def expect(self, symbol: str) -> None:
        """Pass *symbol*; raises ValueError for another."""
        if self.symbol() != symbol:
            raise ValueError(f"not a {symbol}")

    def value(self) -> Any:
        """Return the next value, and pass it; something must follow it."""
        while True:
            self.peek()
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError:
                end = len(self._text)
            if self._text[end : end + 1] in _ENDS:  # behind half a number is the other half
                self._at = end
                return value
            self._grow()

    def array(self) -> list[Any]:
        """Return the next value, an array, and pass it."""
        self.expect("[")
        values: list[Any] = []
        symbol = "," if self.peek() != "]" else self.symbol()
        while symbol == ",":
            value = self.value()
            if type(value) is dict:  # the names are the same in all of them
                value = {sys.intern(name): member for name, member in value.items()}
            values.append(value)
            symbol = self.symbol()
        if symbol != "]":
            raise ValueError("not an array")
        return values

    def rest(self) -> str:
        """Return what else there is, without blanks."""
        return self._text[self._at :].strip(_BLANKS) or self._bytes[self._decoded :].decode().strip(
            _BLANKS
        )


_BLANKS = " \t\r\n"
_ENDS = frozenset(",:]}" + _BLANKS)
_NOT_BLANK = re.compile(f"[^{_BLANKS}]")
