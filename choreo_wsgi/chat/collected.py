"""The items of one choice, collected for the document of a chat completion."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .aside import has_marks, set_aside
from .growing import Growing, utf8_or_mark
from .items import Delta, Finish, Json, Marks, dump, dump_large
from .jsontext import encoded
from .large import restored_parts
from .limits import RepeatedBytes
from .longtext import LazyJson, new_number, restored

#: Reasoning details of more bytes in a delta are limited: their texts are sent as reasoning too.
_LONG = 256


@dataclass
class Choice:
    """The texts, calls and other members of a choice, and its *finish*."""

    text: Growing = field(default_factory=Growing)
    reasoning: Growing = field(default_factory=Growing)
    refusal: Growing = field(default_factory=Growing)
    # Thousands of calls and elements of lists take much less memory as JSON.  By the index of a
    # call: pieces of its arguments, and as bytes its other members.
    calls: dict[int, list[str | bytes]] = field(default_factory=dict)
    extra: dict[str, Json] = field(default_factory=dict)
    details: RepeatedBytes = field(default_factory=lambda: RepeatedBytes("reasoning details"))
    logprobs: dict[str, Json] = field(default_factory=dict)
    finish: Finish | None = None

    def add(self, delta: Delta, marks: Marks) -> None:
        """Add *delta*; *marks* gets its marks, and those of its long texts."""
        marks |= delta.marks or {}
        if delta.text:
            self.text.add(delta.text, marks)
        if delta.reasoning:
            self.reasoning.add(delta.reasoning, marks)
        if delta.refusal:
            self.refusal.add(delta.refusal, marks)
        for call in delta.tool_calls:
            pieces = self.calls.setdefault(call.index, [])
            if call.id or call.name or call.extra:
                pieces.append(dump([call.id, call.name, call.extra or {}]))
            if text := call.arguments:
                pieces.append(text if has_marks(text) else utf8_or_mark(encoded(text), marks))
        _collect(self.extra, delta.extra or {})
        if delta.extra and "reasoning_details" in delta.extra:
            size = sum(map(len, restored_parts(delta.extra["reasoning_details"], marks)))
            if size > _LONG:
                self.details.add(size)
        _collect(self.logprobs, delta.logprobs or {})

    @property
    def has_many(self) -> bool:
        """Whether :meth:`members` may hold many values, or iterators."""
        extra = self.finish and self.finish.extra
        return bool(self.calls or self.extra or self.logprobs or extra)

    def members(self, index: int, marks: Marks) -> dict[str, Json]:
        """Return the choice as a document has it; its long texts are set aside in *marks*.

        Its calls are an iterator, whose values are made as they are encoded, and its lists are
        set aside too.
        """
        text, refusal = self.text.whole(marks), self.refusal.whole(marks)
        message: dict[str, Json] = {
            "role": "assistant",
            "content": text if text or not (self.calls or refusal) else None,
            "refusal": refusal or None,
        }
        if reasoning := self.reasoning.whole(marks):
            message["reasoning_content"] = reasoning
        if self.calls:
            calls = (self.calls[at] for at in sorted(self.calls))
            message["tool_calls"] = (_tool_call(pieces, marks) for pieces in calls)
        message.update(_encoded(self.extra, marks))
        return {
            "index": index,
            "message": message,
            "finish_reason": self.finish.reason if self.finish else None,
            "logprobs": _encoded(self.logprobs, marks) or None,
            **((self.finish and self.finish.extra) or {}),
        }


def _tool_call(pieces: list[str | bytes], marks: Marks) -> dict[str, Json]:
    arguments = [piece for piece in pieces if isinstance(piece, str)]
    others = [json.loads(piece) for piece in pieces if isinstance(piece, bytes)]
    pieces.clear()
    # Setting the marks of a hundred pieces aside would copy the texts that they stand for.
    is_long = any(map(has_marks, arguments))
    function: dict[str, Json] = {
        "name": next((name for _, name, _ in others if name), ""),
        "arguments": "".join(arguments) if is_long else set_aside(arguments, marks),
    }
    id = next((id for id, _, _ in others if id), "")
    call: dict[str, Json] = {"id": id, "type": "function", "function": function}
    for _, _, extra in others:
        merge(call, extra)
    return call


def _collect(into: dict[str, Json], members: Mapping[str, Json]) -> None:
    """Add *members* as :func:`merge` does, but the elements of lists as JSON."""
    for name, value in members.items():
        if isinstance(value, list):
            old = into.get(name)
            into[name] = old if isinstance(old, list) else []
            into[name] += map(dump_large, value)
        else:
            merge(into, {name: value})


def _encoded(members: dict[str, Json], marks: Marks) -> dict[str, Json]:
    """Return *members*, which :func:`_collect` has filled, with marks in place of its lists."""
    whole = dict(members)
    for name, value in members.items():
        if isinstance(value, list):
            number = new_number()
            marks[number.encode()] = _Elements(value)
            whole[name] = int(number)
    return whole


class _Elements(LazyJson):
    """The list whose elements are the JSON texts in *value*, for the mark of a number."""

    def escaped(self, marks: Marks) -> Iterator[bytes | memoryview]:
        between = b"["
        self.value.reverse()
        while self.value:  # each is freed once it is sent
            yield between
            yield from restored(self.value.pop(), marks)
            between = b","
        yield b"]" if between == b"," else b"[]"


def merge(into: dict[str, Json], members: Mapping[str, Json]) -> None:
    """Add *members* to *into*: merge objects, join lists and texts, replace other values.

    Values in *into* grow in place, as there may be thousands of pieces; *members* is not changed.
    """
    for name, value in members.items():
        old = into.pop(name, None)  # CPython appends in place to a text with one reference
        if isinstance(value, dict):
            whole: Json = old if isinstance(old, dict) else {}
            merge(whole, value)
        elif isinstance(value, list):
            whole = old if isinstance(old, list) else []
            whole += value
        elif isinstance(old, str) and isinstance(value, str):
            whole = old
            del old
            whole += value
        else:
            whole = value
        into[name] = whole
