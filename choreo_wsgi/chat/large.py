"""Large JSON objects, read and written in parts, so that no whole text of one is held.

One wide character makes all of a text wide, and each step of a way through texts is one more copy.
So the elements of long lists, as the turns of a conversation, are read, and written, one after the
other.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Callable
from typing import Any

from .items import has_many

#: Bytes that are decoded at once.
WINDOW = 64 * 1024


def read(text: bytes, decoder: json.JSONDecoder) -> Any:
    """Return the object in *text* as *decoder* reads it.

    What is larger than a window is read in parts, eight levels deep.  Raises ValueError for
    whatever is wrong, and for all that is no object.
    """
    window = _Window(text, decoder)
    if window.peek() != "{":
        raise ValueError("not an object")
    value = window.parts(8)
    if window.rest():
        raise ValueError("it does not end")
    return value


def write(value: Any, dump: Callable[[Any], bytes]) -> bytes:
    """Return *value* as JSON, of which *dump* writes the parts: those that hold few values."""
    written = io.BytesIO()

    def put(value: Any) -> None:
        is_object = isinstance(value, dict)
        if not has_many(value):
            written.write(dump(value))
            return
        before = b"{" if is_object else b"["
        for one in value:
            written.write(before + dump(one) + b":" if is_object else before)
            put(value[one] if is_object else one)
            before = b","
        written.write(b"}" if is_object else b"]" if before == b"," else b"[]")

    put(value)
    return written.getvalue()


class _Window:
    """The part of *text* that is being read, of which *decoder* reads the values."""

    def __init__(self, text: bytes, decoder: json.JSONDecoder) -> None:
        self._bytes = text
        self._scan = decoder.raw_decode
        hook = decoder.object_pairs_hook
        self._object = dict if hook is None else hook
        self._names: dict[str, str] = {}  # they are the same in all elements of a list
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

    def value(self, levels: int) -> Any:
        """Return the next value, and pass it; something must follow it."""
        while True:
            opening = self.peek()
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError:
                end = len(self._text)
            if self._text[end : end + 1] in _ENDS:  # behind half a number is the other half
                self._at = end
                return value
            if levels and opening in "[{" and len(self._text) - self._at >= WINDOW:
                return self.parts(levels)
            self._grow()

    def parts(self, levels: int) -> Any:
        """Return the next value, an array or an object, part by part, and pass it."""
        end = "}" if self.symbol() == "{" else "]"
        known = self._names.setdefault
        names: list[str] = []
        values: list[Any] = []
        symbol = self.symbol() if self.peek() == end else ","
        while symbol == ",":
            if end == "}":
                name = self.value(0)
                if type(name) is not str or self.symbol() != ":":
                    raise ValueError("not a member")
                names.append(known(name, name))
            value = self.value(levels - 1)
            if type(value) is dict:
                value = {known(name, name): member for name, member in value.items()}
            values.append(value)
            symbol = self.symbol()
        if symbol != end:
            raise ValueError(f"not a {end}")
        return self._object(list(zip(names, values, strict=True))) if end == "}" else values

    def rest(self) -> str:
        """Return what else there is, without blanks."""
        return self._text[self._at :].strip(_BLANKS) or self._bytes[self._decoded :].decode().strip(
            _BLANKS
        )


_BLANKS = " \t\r\n"
_ENDS = frozenset(",:]}" + _BLANKS)
_NOT_BLANK = re.compile(f"[^{_BLANKS}]")
