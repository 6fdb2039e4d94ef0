"""Parses and encodes large JSON values in parts, so that none is ever one whole ``str``.

One wide character makes all of a ``str`` wide, and decoding and parsing copy it.  So the elements
of long lists, as the messages of a conversation, are parsed and encoded one after the other.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..errors import UpstreamInvalid
from .inparts import parts
from .items import Marks, dump
from .longtext import restored

#: Bytes that are decoded at once, at least.
WINDOW = 64 * 1024
#: Bytes that are joined to send them: the server has the system map blocks of this size.
_BLOCK = 256 * 1024


def read(
    text: bytes | bytearray,
    decoder: json.JSONDecoder,
    errors: str = "strict",
    keep: bool = True,
) -> Any:
    """Return the array or object in *text* as *decoder* parses it.

    Arrays and objects that are larger than a window are read in parts; they are empty
    unless *keep*.  Raises ValueError for invalid JSON and for any other value.  *errors* is
    that of bytes.decode().
    """
    reader = _Reader(text, decoder, errors, keep)
    if reader.peek() not in "[{":
        raise ValueError("neither an array nor an object")
    value = reader.container(_LEVELS)
    if reader.remaining():
        raise ValueError("text after the value")
    return value


def end_of_list(text: memoryview, at: int) -> int:
    """Return the offset of the end of the array that begins at *at*; raises ValueError.

    Its elements are parsed one after the other, and none is kept.
    """
    reader = _Reader(text[at:], json.JSONDecoder(), "surrogatepass", keep=False)
    reader.container(_LEVELS)
    return at + reader.offset


def write(value: Any, dump: Callable[[Any], bytes]) -> bytes:
    """Return *value* as JSON; *dump* encodes the parts of it that hold few values."""
    return join(parts(value, lambda part: (dump(part),)))


def join(parts: Iterable[bytes | memoryview]) -> bytes:
    """Return *parts* joined; a list of thousands of them would take as much memory again."""
    whole = io.BytesIO()
    whole.writelines(parts)
    return whole.getvalue()


def dump_restored(value: Any, marks: Marks) -> bytes:
    """Return *value* as JSON with *marks* restored."""
    return join(restored_parts(value, marks))


def dump_at_most(most: int, value: Any, marks: Marks, problem: str) -> bytes:
    """Return *value* as :func:`dump_restored` does.

    Raises UpstreamInvalid with the text *problem* for more than *most* bytes.
    """
    text = bytearray()
    for part in restored_parts(value, marks):
        text += part
        if len(text) > most:
            raise UpstreamInvalid(problem)
    return bytes(text)


def pieces(value: Any, marks: Marks) -> Iterator[bytes]:
    """Yield *value* as JSON with *marks* restored, in pieces of about a window."""
    some = bytearray()
    for part in restored_parts(value, marks):
        for at in range(0, len(part), WINDOW):
            some += part[at : at + WINDOW]
            if len(some) >= WINDOW:
                yield bytes(some)
                some.clear()
    if some:
        yield bytes(some)


def pieces_to_send(value: Any, marks: Marks) -> Iterator[bytes | memoryview]:
    """Yield *value* as JSON with *marks* restored; views that were set aside are not copied.

    The rest is joined to blocks so large that the system gets them back when they are freed.
    """
    rest = bytearray()
    for text in parts(value, lambda part: (dump(part),)):
        for part in restored(bytes(text), marks):
            is_original = isinstance(part, memoryview) and part.obj is not text
            if not is_original:
                rest += part
            if rest and (is_original or len(rest) >= _BLOCK):
                yield bytes(rest)
                rest.clear()
            if is_original:
                yield part
    if rest:
        yield bytes(rest)


def restored_parts(value: Any, marks: Marks) -> Iterator[bytes | memoryview]:
    """Yield *value* as JSON with *marks* restored."""
    return parts(value, lambda part: restored(dump(part), marks))


#: The members of an element whose values, few words, are shared by all of them as the names are.
_KINDS = frozenset(("role", "type"))
#: Levels of arrays and objects that are read in parts, as many as :mod:`.jsontext` lets pass.
_LEVELS = 64
#: Characters of a string that are searched for its end: longer valid strings were set aside.
_LONGEST = 512 * 1024
#: Characters of the longest literal, number or escape that may be cut by the end of the window.
_LITERAL = 1024
#: The most strings that objects share, and their characters: most texts have few short names.
_MOST_SHARED, _LONGEST_SHARED = 1000, 64


class Sharing:
    """Makes objects with *make* for a decoder; names, types and roles are shared by all.

    The parser keeps a string for each time that a name is in the text, which takes more memory.
    """

    def __init__(self, make: Callable[[list[tuple[str, Any]]], dict[str, Any]]) -> None:
        self._make = make
        self._known: dict[str, str] = {}

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        known = self._known
        if len(known) < _MOST_SHARED:
            new = (name for name, _ in pairs if name not in known)
            known |= {name: name for name in new if len(name) <= _LONGEST_SHARED}
        members = self._make([(known.get(name, name), value) for name, value in pairs])
        for name in _KINDS & members.keys():
            if type(kind := members[name]) is str:
                share = known.setdefault if len(known) < _MOST_SHARED else known.get
                members[name] = share(kind, kind)
        return members


class _Reader:
    """Reads the values in *text* with *decoder*; only a window of the text is decoded at a time."""

    def __init__(
        self,
        text: bytes | bytearray | memoryview,
        decoder: json.JSONDecoder,
        errors: str,
        keep: bool,
    ) -> None:
        self._bytes = text
        self._keep = keep
        self._scan = decoder.raw_decode
        hook = decoder.object_pairs_hook
        self._object = dict if hook is None else hook
        self._share = Sharing(dict)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)
        self._decoded = self._at = 0
        self._text = ""

    @property
    def offset(self) -> int:
        """The bytes consumed."""
        rest = self._text[self._at :].encode("utf-8", "surrogatepass")
        return self._decoded - len(self._decoder.getstate()[0]) - len(rest)

    def _grow(self) -> None:
        """Decode more text, twice as much if nothing was read; raises ValueError at the end."""
        size = max(WINDOW, len(self._text) - self._at)
        if size > _LONGEST:
            raise ValueError("a string without an end")
        piece = self._bytes[self._decoded : self._decoded + size]
        if not piece:
            raise ValueError("the text ends too early")
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
        """Consume and return the next character that is not blank."""
        symbol = self.peek()
        self._at += 1
        return symbol

    def value(self, levels: int) -> Any:
        """Consume and return the next value, which must not be the last of the text."""
        while True:
            opening = self.peek()
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as error:
                end = len(self._text)
                if error.pos < end - _LITERAL and not error.msg.startswith("Unterminated string"):
                    raise  # more text would not mend it
            if self._text[end : end + 1] in _ENDS:  # half a number is followed by its other half
                self._at = end
                return value
            if levels and opening in "[{" and len(self._text) - self._at >= WINDOW:
                return self.container(levels)
            self._grow()

    def container(self, levels: int) -> Any:
        """Consume and return the next array or object, one element or member at a time."""
        end = "}" if self.symbol() == "{" else "]"
        members: dict[str, Any] = {}  # not lists of names and values, which would take more
        values: list[Any] = []
        symbol = self.symbol() if self.peek() == end else ","
        while symbol == ",":
            if end == "}":
                name = self.value(0)
                if type(name) is not str or self.symbol() != ":":
                    raise ValueError("not a member")
            value = self.value(levels - 1)
            has_few = type(value) is dict and len(value) < _MOST_SHARED
            if has_few and self._object is dict:  # else *decoder* has made it
                value = self._share(list(value.items()))
            if self._keep and end == "]":
                values.append(value)
            elif self._keep:
                if name in members and self._object is not dict:
                    self._object([(name, value)] * 2)  # it may raise
                members[name] = value
            symbol = self.symbol()
        if symbol != end:
            raise ValueError(f"not a {end}")
        return values if end == "]" else members

    def remaining(self) -> str:
        """Return the rest of the text without the blanks around it."""
        decoded, encoded = self._text[self._at :], self._bytes[self._decoded :]
        return decoded.strip(_BLANKS) or str(encoded, "utf-8").strip(_BLANKS)


_BLANKS = " \t\r\n"
_ENDS = frozenset(",:]}" + _BLANKS)
_NOT_BLANK = re.compile(f"[^{_BLANKS}]")
