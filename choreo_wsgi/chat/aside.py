"""Reads and makes texts that are set aside: as pieces, as bytes, as the JSON inside them.

See :mod:`~choreo_wsgi.chat.longtext`.  Only translations need this module, so it is loaded late.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from ..errors import UpstreamInvalid
from . import jsontext
from .cutting import CUT, masked_window, shorten
from .items import FILLING, Delta, Finish, Item, Json, Marks, ToolCall, dump, dump_large, quote
from .jsontext import encoded
from .large import dump_at_most
from .longtext import LONG, MARK, PI, WINDOW, LazyJson, find_marks, new_mark, restore, restored

_MARK = re.compile(f"{MARK}|{PI}[0-9]{{40}}")
#: A text of at most this many characters is not set aside.
_SHORT = 4 * 1024
#: Characters that one of a wide text counts as, since it takes more memory than a byte.
_WIDTH = 8
#: Above about this many characters the JSON of a value is set aside.
_FEW_CHARACTERS = 300
#: Characters of the longest message of an error.
_LONGEST_MESSAGE = 4000
#: Bytes of the longest value that is restored as a whole, and of all beside a text but tokens.
_LONGEST_VALUE, _LONGEST_BESIDE = 1024 * 1024, 512 * 1024
#: Characters of the longest id or name that need not be ASCII: an answer may have thousands, and
#: an emoji makes all of one four times as wide.
_SHORT_WORD = 256
_LENIENT = jsontext.Decoder()  # as json.loads, but in parts


def has_marks(text: str) -> bool:
    """Whether *text* may contain marks."""
    return FILLING in text or PI in text


def marks_in(text: bytes, marks: Marks) -> Marks:
    """Return those of *marks* that are in *text*; copies, so that no larger text stays alive."""
    return {found[0]: restore(found[0], marks) for found in find_marks(text, marks)}


def pieces(text: str, marks: Marks) -> Iterator[str]:
    """Yield *text*, a string of a JSON value, in pieces with *marks* restored."""
    some: list[str] = []
    size = 0
    for one in raw_pieces(text, marks):
        some.append(one if isinstance(one, str) else json.loads(b'"' + one + b'"'))
        size += len(some[-1])
        if size > _SHORT:  # thousands of short pieces would take several times their bytes
            yield "".join(some)
            some, size = [], 0
    yield "".join(some)


def raw_pieces(text: str, marks: Marks) -> Iterator[str | bytes]:
    """Yield the pieces of *text*; those cut out of a JSON string are bytes, with its escapes."""
    at = 0
    for found in _MARK.finditer(text) if marks and has_marks(text) else ():
        original = marks.get(found[0].encode())
        if original is None:
            continue
        yield text[at : found.start()]
        at = found.end()
        if isinstance(original, LazyJson):
            decode = codecs.getincrementaldecoder("utf-8")("surrogatepass").decode
            yield from map(decode, original.text(marks))
            continue
        done = 0
        while done < len(original):
            end = done + len(masked_window(original, done, WINDOW))
            yield bytes(original[done:end])
            done = end
    yield text[at:]


def utf8_pieces(text: bytes | bytearray, at: int = 0) -> Iterator[bytes]:
    """Yield *text*, which is UTF-8, from *at* on, in pieces of whole characters."""
    while at < len(text):
        end = at + WINDOW
        while end < len(text) and text[end] & 0xC0 == 0x80:
            end -= 1
        yield bytes(text[at:end])
        at = end


def decode_pieces(text: bytes | bytearray, at: int = 0) -> Iterator[str]:
    """Yield *text*, which is UTF-8, from *at* on, decoded in pieces."""
    return (piece.decode("utf-8", "surrogatepass") for piece in utf8_pieces(text, at))


def utf8_of(pieces: Iterable[str]) -> bytearray:
    """Return *pieces* joined, in UTF-8: as a string they might be four times as wide."""
    text = bytearray()
    for piece in pieces:
        text += encoded(piece)
    return text


def whole(text: str, marks: Marks) -> str:
    """Return *text*, a string of a JSON value, with *marks* restored."""
    return "".join(pieces(text, marks)) if marks else text


def beginning(text: str, marks: Marks, size: int = _LONGEST_MESSAGE) -> str:
    """Return *text*; if it has *marks*, its first *size* characters with them restored."""
    if not (marks and has_marks(text)):
        return text
    found = ""
    for piece in pieces(text, marks):
        found += piece[:size]
        if len(found) >= size:
            break
    return found[:size]


def set_aside(texts: list[str], marks: Marks) -> str:
    """Return *texts* joined, with marks, which are added to *marks*, in place of long parts.

    *texts* may hold other *marks*.  It is changed to hold the result alone, so that the originals
    can be freed.
    """
    parts: list[str] = []
    some: list[str] = []
    size, may_have_marks = 0, bool(marks)
    for at, text in enumerate(texts):
        some.append(text)
        texts[at] = ""
        size += len(text) if text.isascii() else _WIDTH * len(text)
        if size > _SHORT:  # joined in short parts, few characters are as wide as the widest
            joined = "".join(some)
            original = escaped(joined)
            parts.append(mark := new_mark())
            is_marked = may_have_marks and has_marks(joined)
            marks[mark.encode()] = absorb(original, marks) if is_marked else original
            some, size = [], 0
    texts[:] = ["".join([*parts, *some])]
    return texts[0]


def text_or_mark(text: bytes, marks: Marks) -> str:
    """Return *text*, ASCII without quotes and escapes; or a new mark for it if it is long."""
    if len(text) <= _SHORT:
        return text.decode()
    mark = new_mark()
    marks[mark.encode()] = text
    return mark


def absorb(text: bytes, marks: Marks) -> bytes:
    """Return *text* with its marks restored, and remove them from *marks*."""
    found = {match[0]: marks[match[0]] for match in find_marks(text, marks)}
    for mark in found:
        del marks[mark]
    return restore(text, found)


def join(texts: list[str], marks: Marks) -> str:
    """Return *texts*, which may hold *marks*, joined; or a new mark if that would be long."""
    if sum(map(len, texts)) <= _SHORT:
        return "".join(texts)
    mark = new_mark()
    marks[mark.encode()] = _LazyText(texts)
    return mark


def json_text(value: Json, marks: Marks) -> str:
    """Return *value*, which may hold *marks*, as JSON text; or a new mark if that would be long."""
    text = "" if _is_long(value) else dump(value).decode()
    if text and not has_marks(text):
        return text
    marks[(mark := new_mark()).encode()] = LazyJson(value)
    return mark


def _is_long(value: Json) -> bool:
    size, waiting = 0, [value]
    while waiting and size <= _FEW_CHARACTERS:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += [*one, *one.values()]
        elif isinstance(one, list):
            waiting += one
        if isinstance(one, str):  # two bytes or more for each character of a wide text
            size += len(one) if one.isascii() else 2 * len(one)
        else:
            size += 4
    return size > _FEW_CHARACTERS


class _LazyText(LazyJson):
    """The texts in the list *value*, joined only when they are needed."""

    __slots__ = ()

    def text(self, marks: Marks) -> Iterator[bytes]:
        some = b""
        for one in self.value:
            for piece in pieces(one, marks):
                some += encoded(piece)
                if len(some) > _SHORT:
                    yield some
                    some = b""
        yield some

    def escaped(self, marks: Marks) -> Iterator[bytes]:
        for one in self.value:
            yield from map(bytes, restored(escaped(one), marks))


def escaped(text: str) -> bytes:
    """Return *text* escaped for the inside of a JSON string."""
    return quote(text)[1:-1].encode("utf-8", "backslashreplace")


def shorten_into(marks: Marks, text: bytes | bytearray | memoryview, most: int = 0) -> bytes:
    """Return *text* shortened; the new marks, at most *most* unless 0, are added to *marks*."""
    short, found = shorten(text, most=most)
    marks |= found
    return short


def parse_pieces(
    pieces: Iterable[str], marks: Marks, decode: Callable[[str], Json] = json.loads
) -> Json:
    """Return the JSON value in *pieces*, joined; marks for its long strings are added to *marks*.

    Raises the errors of :func:`~choreo_wsgi.chat.jsontext.parse`.
    """
    return parse_aside(utf8_of(pieces), marks, decode)


def parse_aside(
    text: bytes | bytearray, marks: Marks, decode: Callable[[str], Json] = json.loads
) -> Json:
    """Return the JSON value in *text*, as :func:`parse_pieces` does."""
    return jsontext.parse(shorten_into(marks, text), decode, errors="surrogatepass")


def signature(text: str, marks: Marks, what: str = "signature", short: int = 0) -> str:
    """Return *text* restored; raises UpstreamInvalid if longer than *short* and not ASCII."""
    found, size = list[str](), 0
    for piece in pieces(text, marks):
        found.append(piece)
        size += len(piece)
        if size > short and not piece.isascii():  # all pieces but the last are longer
            raise UpstreamInvalid(f"the provider sent a {what} that is not ASCII")
        if size > _LONGEST_VALUE:
            raise UpstreamInvalid(f"the provider sent a {what} of more than 1 MiB")
    return "".join(found)


def word(text: str, marks: Marks) -> str:
    """Return *text*, an id or a name, as :func:`signature` does; a short one is any text."""
    unread = marks or not text.isascii()
    return signature(text, marks, "long id or name", _SHORT_WORD) if unread else text


def is_object(text: bytearray, decode: jsontext.Decoder = _LENIENT) -> bool:
    """Whether *text*, UTF-8, is a JSON object, as complete arguments are; keeps no values."""
    try:
        return isinstance(check(text, decode), dict)
    except ValueError:
        return False


def check(text: bytearray, decode: jsontext.Decoder) -> Json:
    """Return the JSON value in *text*, UTF-8, empty if it is large; raises ValueError."""
    short, _ = shorten(text, wide=CUT)
    if len(short) > LONG:
        return jsontext.parse_large(short, decode, errors="surrogatepass", keep=False)
    return jsontext.parse(short, decode, errors="surrogatepass")


def restored_items(items: Iterable[Item], marks: Marks) -> Iterator[Item]:
    """Yield *items* with *marks* restored; a long text as several items, one for each piece."""
    for item in items:
        if isinstance(item, Finish) and item.extra:
            item = replace(item, extra=beside(item.extra, marks))
        if not isinstance(item, Delta):
            yield item
            continue
        index, found, logprobs = item.index, item.marks, item.logprobs
        if item.extra or logprobs:  # first, as this is done by a worker and the rest by the loop
            found = marks_in(dump_large(item.extra), marks) | (item.marks or {})
            logprobs = logprobs and beside(logprobs, marks, _LONGEST_VALUE)
        yield from (Delta("", index, piece) for piece in pieces(item.reasoning, marks) if piece)
        yield from (Delta(piece, index) for piece in pieces(item.text, marks) if piece)
        yield from (Delta("", index, "", piece) for piece in pieces(item.refusal, marks) if piece)
        for call in item.tool_calls:
            arguments = pieces(call.arguments, marks)
            yield Delta(index=index, tool_calls=[replace(call, arguments=next(arguments))])
            for piece in arguments:
                yield Delta(index=index, tool_calls=[ToolCall(call.index, arguments=piece)])
            marks.pop(call.arguments.encode("utf-8", "replace"), None)  # there may be many
        if item.extra or item.logprobs:
            yield Delta(index=index, extra=item.extra, logprobs=logprobs, marks=found or None)


def beside(value: Mapping[str, Json], marks: Marks, most: int = _LONGEST_BESIDE) -> dict[str, Json]:
    """Return *value*, found beside a text, with *marks* restored.

    Raises UpstreamInvalid if it has more than *most* bytes.
    """
    problem = "the provider sent a very long value beside the text"
    text = dump_at_most(most, value, marks, problem)
    return json.loads(text) if marks else {**value}
