"""Chunks and completions of hundreds of kilobytes, read in little memory.

Long strings are set aside before the JSON is parsed (see :mod:`~choreo_wsgi.chat.longtext`),
lists of texts are joined without being decoded, and many tool calls are divided among chunks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby

from ...chat import aside, cutting, large, longtext
from ...chat.choice import HOLDERS
from ...chat.endings import FINISHES
from ...chat.items import Json, Marks, dump_large
from ...chat.jsontext import TooMuch
from ...chat.shapes import ARGUMENTS, REASONING, Members, listed, part_kind, rename, text_of
from ...chat.usages import PLACES
from ...errors import UpstreamInvalid
from .. import logprobs
from ..failures import provider_error
from ..reading import find_error, most_values, parse_json, unwrapped
from ..weight import most_marks
from . import joined
from .events import read_chunk

#: Tool calls in one chunk or item.
AT_ONCE = 16
#: Limit of tool calls, pictures or others in one chunk.
MOST_ELEMENTS = 500
#: Limit of bytes of a value in which the code reads the strings; all others are only forwarded.
_MOST_READ = 64 * 1024
#: The same for signed thoughts, which take 17 times their bytes in a translation.
_MOST_THOUGHT = 384 * 1024
#: The same for reasoning details, whose texts are sent as reasoning too.
_MOST_DETAILS = 1024 * 1024
#: Limit of bytes by which JSON grows that is sent in place of texts, as its quotes are escaped.
_MOST_GROWTH = 512 * 1024
#: Bytes of the long strings in an error that are read: more than its message may have characters.
_SHOWN = 32 * 1024
#: Limit of bytes of an error without its long strings.
_LONGEST_ERROR = 64 * 1024
#: The members with such values: of a chunk, a choice or a message, of a call; a call's texts.
_READ = ("id", "object", "model", "usage", "x_groq", "index", *PLACES, *FINISHES)
_READ_IN_CALL = ("index", "id", "type", "name")
_TEXTS_OF_CALL = {"function", "custom", *ARGUMENTS}
#: Bytes of an object that the normaliser encodes itself.
_SHORT = 4 * 1024

# Long chunks: how many frames are before each, the chunk and the marks in it.
Unwritten = list[tuple[int, dict[str, Json], Marks]]


def read(
    data: bytes | memoryview, marks: Marks, event: str, reading: bool = False, repair: bool = True
) -> Iterable[dict[str, Json] | None]:
    """Return the chunks in *data*, of an event of the type *event*; None for the end marker.

    Long strings are placeholders, which are added to *marks*.  *reading* is whether the chunks will
    be translated, *repair* whether they will be mended.  Raises the error that the event reports,
    and UpstreamInvalid.
    """
    short = shorten(data, marks, reading)
    try:
        value = parse_json(short, most_values(short, len(marks), len(data)))
    except UpstreamInvalid as error:
        if len(data) > joined.LONGEST or isinstance(error.__cause__, TooMuch):
            raise
        value = None
    short = b""
    if not isinstance(value, dict):
        value = None
        marks.clear()
        several = joined.events_in(bytes(data)) if len(data) <= joined.LONGEST else []
        if not several:
            raise UpstreamInvalid("the provider sent a long event that is not a JSON object")
        return map(read_chunk, several)
    failure = value if event == "error" else find_error(value)
    if failure is not None:
        raise provider_error(_restored(failure, marks, truncate=True))
    chunk: dict[str, Json] = unwrapped(value)
    prepare(chunk, marks, reading, repair)
    return [chunk]


def shorten(data: bytes | memoryview, marks: Marks, reading: bool = False) -> bytes:
    """Return *data*, a chunk or a completion, with placeholders for long parts, added to *marks*.

    The parts are long strings and, unless the chunk will be translated (*reading*), log
    probabilities.  Line ends in a part become spaces, so that a frame may contain it.
    """
    has_lines = isinstance(data, bytes) and (b"\n" in data or b"\r" in data)
    shorten_strings = partial(cutting.shorten, most=most_marks(len(data)))
    cuts: list[Callable[..., tuple[bytes, Marks]]] = [logprobs.shorten, shorten_strings]
    for cut in cuts[reading:]:
        data, found = cut(data)
        marks |= {**found, **cutting.on_one_line(found)} if has_lines else found
    return bytes(data)


def prepare(
    chunk: dict[str, Json], marks: Marks, reading: bool = False, repair: bool = True
) -> bool:
    """Prepare *chunk*, whose long strings are in *marks*, for the normaliser, in place.

    Strings that it reads are restored, and lists of texts that it would join, with *repair*, are
    joined here: one wide character would make all of a joined text wide.  Returns whether anything
    was joined.  Raises UpstreamInvalid for a string that is too long.
    """
    _restore(chunk, _READ, marks)
    choices = listed(chunk.get("choices"))
    if len(choices) > MOST_ELEMENTS:
        raise UpstreamInvalid(f"the provider sent more than {MOST_ELEMENTS:,} choices at once")
    changed: bool = choices != chunk.get("choices", [])
    if changed:
        chunk["choices"] = choices
    for one in choices:
        if not isinstance(one, dict):
            continue
        _restore(one, (*_READ, "logprobs") if reading else _READ, marks)
        _check_calls(listed(one.get("tool_calls")))
        for name in HOLDERS:
            holder = one.get(name)
            if isinstance(holder, dict):
                _restore(holder, _READ, marks)
                if reading:
                    _restore(holder, ["thinking_blocks"], marks, _MOST_THOUGHT)
                changed = (repair and _join_texts(holder, marks, reading)) or changed
            elif repair and isinstance(holder, list) and len(holder) > 1:
                one[name], changed = _join_parts(holder, marks), True
    return changed


def _check_calls(calls: list[Json]) -> None:
    if len(calls) > MOST_ELEMENTS:
        raise UpstreamInvalid(f"the provider sent more than {MOST_ELEMENTS:,} tool calls at once")


def _join_texts(message: Members, marks: Marks, reading: bool) -> bool:
    """Join the texts in *message* that the normaliser would join; return whether there are any."""
    changed = [rename(message)]
    parts, details = message.get("content"), message.get("reasoning_details")
    if message.get("tool_calls"):
        message["tool_calls"] = listed(message["tool_calls"])
    _check_calls(calls := [*(message.get("tool_calls") or ())])
    calls += [message.get("function_call")]
    calls += [part for part in listed(parts) if part_kind(part) == "call"]
    encoded: list[tuple[bool, int]] = []
    if reading:  # the members that no API has, such as a signature
        known = [one for one in calls if isinstance(one, dict)]
        more = [{name: one[name] for name in one.keys() - _TEXTS_OF_CALL} for one in known]
        list(map(dict.update, known, _restored(more, marks, _MOST_THOUGHT)))
    for call in calls:
        inside = [call.get("function"), call.get("custom")] if isinstance(call, dict) else []
        for holder in (call, *inside):
            if isinstance(holder, dict):
                _restore(holder, _READ_IN_CALL, marks)
                encoded += (_encode(holder, name, marks) for name in ARGUMENTS)
    if isinstance(details, list) and not any(map(message.get, REASONING)):
        if sum(map(len, large.restored_parts(details, marks))) > _MOST_DETAILS:
            raise UpstreamInvalid("the provider sent more than 1 MiB of reasoning details at once")
        message[REASONING[0]] = details
    for name in REASONING:
        if isinstance(message.get(name), list):
            message[name] = _join(message[name], marks) or None
            changed.append(True)
    if isinstance(message.get("refusal"), list):
        message["refusal"] = _join(message["refusal"], marks) or None
        changed.append(True)
    if isinstance(parts, list):
        message["content"] = _join_parts(parts, marks)
        changed.append(True)
    elif isinstance(parts, dict) and "type" not in parts and "text" not in parts:  # JSON
        encoded.append(_encode(message, "content", marks))
    if sum(growth for _, growth in encoded) > _MOST_GROWTH:
        raise UpstreamInvalid("the provider sent long objects in place of texts")
    return any(changed) or any(is_encoded for is_encoded, _ in encoded)


def _join(parts: Iterable[Json], marks: Marks) -> str:
    return aside.join([*map(text_of, parts)], marks)


def _join_parts(parts: list[Json], marks: Marks) -> list[Json]:
    """Return *parts* of a content with neighbouring texts, and thoughts, joined."""
    content: list[Json] = []
    for kind, group in groupby(parts, _joined_as):
        several = list(group)
        if kind == "thought":
            content.append({"type": kind, "text": _join(several, marks)})
        elif kind == "refusal":
            content.append({"type": kind, kind: _join([one[kind] for one in several], marks)})
        else:
            content += [_join(several, marks)] if kind else several
    return content


def _joined_as(part: Json) -> str:
    """Return the kind of a part that is a text and nothing else, ``""`` for others."""
    kind = part_kind(part)
    if kind == "refusal":
        return kind if part.get(kind) else ""
    is_more = kind == "text" and isinstance(part, dict) and part.get("annotations")
    return kind if kind in ("text", "thought") and not is_more else ""


def _encode(holder: Members, name: str, marks: Marks) -> tuple[bool, int]:
    """Encode the member *name* of *holder* as JSON text, as the normaliser would, if it is long.

    All but its brackets is set aside.  Returns whether the member was encoded, and by how many
    bytes it grows when it becomes a text; of its short strings, which stay values, half count too.
    """
    value = holder.get(name)
    if not value or isinstance(value, str):
        return False, 0
    inside, short = _Inside(value), dump_large(value)
    size = sum(map(len, longtext.restored(short, marks)))
    growth = sum(map(len, inside.escaped(marks))) - size + len(short) // 2
    if size <= _SHORT and next(longtext.find_marks(short, marks), None) is None:
        return False, growth
    mark = longtext.new_mark()
    marks[mark.encode()] = inside
    holder[name] = f"{{{mark}}}" if isinstance(value, dict) else f"[{mark}]"
    return True, growth


class _Inside(longtext.LazyJson):
    """The JSON text of *value*, an array or an object, without its brackets."""

    def text(self, marks: Marks) -> Iterator[bytes]:
        """Yield the text in pieces, with *marks* restored."""
        pieces = super().text(marks)
        last = next(pieces)[1:]
        for piece in pieces:
            yield last
            last = piece
        yield last[:-1]


def _restore(holder: Members, names: Iterable[str], marks: Marks, limit: int = _MOST_READ) -> None:
    for name in names:
        if marks and holder.get(name):
            holder[name] = _restored(holder[name], marks, limit)


def _restored(value: Json, marks: Marks, limit: int = 0, truncate: bool = False) -> Json:
    """Return *value* with its long strings, or with their first part if *truncate* is true.

    Raises UpstreamInvalid if the strings have more than *limit* bytes.
    """
    text = dump_large(value)
    if truncate:
        if len(text) > _LONGEST_ERROR:
            raise UpstreamInvalid("the provider sent a very long error")
        limit = _SHOWN
    found: dict[bytes, bytes] = {}
    for match in longtext.find_marks(text, marks):
        part = marks[match[0]]
        if isinstance(part, longtext.LazyJson) or (len(part) > limit and not truncate):
            raise UpstreamInvalid("the provider sent a long text in place of a name or a number")
        found[match[0]] = shown = bytes(cutting.masked_window(part, 0, min(limit, len(part))))
        limit -= len(shown)
    return json.loads(longtext.restore(text, {**found})) if found else value


def add(
    chunk: dict[str, Json], marks: Marks, size: int, frames: list[bytes], unwritten: Unwritten
) -> None:
    """Add *chunk*, of an event of *size* bytes, to *unwritten*, or its frame to *frames*.

    Thousands of chunks that are joined in a shorter event take more memory than their frames.
    """
    if size <= joined.LONGEST:
        frames.append(large.join(_frame(chunk, marks)))
    else:
        unwritten.append((len(frames), chunk, marks))


def write(unwritten: Unwritten, frames: list[bytes]) -> None:
    """Write the frames of *unwritten*, which is emptied, in between *frames*; join all in one.

    The caller has freed the events by now, so that they take no memory beside the frames.
    """
    frames[:] = [large.join(_written(unwritten, frames))]


def _written(unwritten: Unwritten, frames: list[bytes]) -> Iterator[bytes | memoryview]:
    done = 0
    while unwritten:
        place, chunk, marks = unwritten.pop(0)
        yield from frames[done:place]
        yield from _frame(chunk, marks)
        done = place
    yield from frames[done:]


def _frame(chunk: dict[str, Json], marks: Marks) -> Iterator[bytes | memoryview]:
    yield b"data: "
    yield from large.restored_parts(chunk, marks)
    yield b"\n\n"


def encode(document: dict[str, Json], marks: Marks) -> bytes:
    """Return *document* as JSON with *marks* restored."""
    return large.join(large.restored_parts(document, marks))


def parts(chunk: dict[str, Json]) -> Iterator[dict[str, Json]]:
    """Yield *chunk* divided into several with one choice and at most AT_ONCE calls each."""
    for one in chunk["choices"] or [None]:
        calls = (one["delta"].get("tool_calls") or []) if one else []
        if len(calls) <= AT_ONCE:
            yield {**chunk, "choices": [one] if one else []}
            continue
        for at in range(0, len(calls), AT_ONCE):
            delta = {**one["delta"], "tool_calls": calls[at : at + AT_ONCE]}
            yield {**chunk, "choices": [{**one, "delta": delta}]}
            one = {"index": one["index"], "delta": {}, "finish_reason": None}
