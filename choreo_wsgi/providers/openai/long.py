"""Chat chunks of hundreds of kilobytes: long strings set aside, many tool calls divided."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress

from ...chat import cutting, longtext
from ...chat.items import Json, Marks, dump_large
from ...errors import UpstreamInvalid
from .. import logprobs
from ..reading import MAX_VALUES, find_error, most_values, parse_json, unwrapped

#: Tool calls in one chunk or item.
AT_ONCE = 16
#: Members that may be lists of parts with texts.
_PARTS = ("content", "reasoning_details")
_LINE_END = re.compile(rb"[\r\n]")


def shorten(data: bytes | memoryview, marks: Marks, reading: bool = False) -> bytes:
    """Return *data*, a chunk or a completion, with placeholders for long parts, added to *marks*.

    The parts are long strings of the choices' output, and their log probabilities unless those
    will be read (*reading*).  If anything else is long, or the JSON is invalid, nothing is set
    aside.  Line ends in a part become spaces, so that a frame may contain it.
    """
    for cut in [cutting.shorten] if reading else [logprobs.shorten, cutting.shorten]:
        short, found = cut(data)
        if not found:
            continue
        with suppress(UpstreamInvalid):  # the caller's parser reports it; or one line of several
            chunk = parse_json(short, MAX_VALUES if reading else most_values(short))
            if _are_output(found, unwrapped(chunk)):
                for mark, part in found.items():
                    if not isinstance(part, longtext.LazyJson) and _LINE_END.search(part):
                        part = _LINE_END.sub(b" ", part)
                    marks[mark] = part
                data = short
    return bytes(data)


def _are_output(marks: Marks, chunk: Json) -> bool:
    """Whether all *marks* are in the log probabilities, texts, arguments or images of choices.

    Such strings are moved, joined and forwarded, but nothing reads them.
    """
    if not isinstance(chunk, dict) or find_error(chunk) is not None:
        return False
    choices = chunk.get("choices")
    output = bytearray()
    for one in choices if isinstance(choices, list) else ():
        if not isinstance(one, dict):
            continue
        output += dump_large(one.get("logprobs"))
        message = one.get("delta") or one.get("message")
        for name, value in message.items() if isinstance(message, dict) else ():
            texts: list[Json] = [value]
            if name in _PARTS and isinstance(value, list):
                texts = [part.get("text") for part in value if isinstance(part, dict)]
            elif name == "tool_calls" and isinstance(value, list):
                functions = (call.get("function") for call in value if isinstance(call, dict))
                texts = [each.get("arguments") for each in functions if isinstance(each, dict)]
            for text in texts:
                if isinstance(text, str) or name == "images":
                    output += dump_large(text)
    found = longtext.find_marks(bytes(output), marks)
    return marks.keys() == {match[0] for match in found}


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
