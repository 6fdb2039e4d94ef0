"""Chat chunks of hundreds of kilobytes: what is long is set aside, many calls are divided."""

from __future__ import annotations

from collections.abc import Iterator

from ...chat import cutting, longtext
from ...chat.items import Json, Marks
from ...chat.shapes import compact
from .. import logprobs
from ..reading import MAX_VALUES, find_error, most_values, parse_json

#: Tool calls that are told at once.
AT_ONCE = 16


def shorten(data: bytes | memoryview, marks: Marks, reading: bool = False) -> bytes:
    """Return *data*, a chunk or a completion, with *marks* for what is long, as they are put there.

    They stand for long strings of what a choice says, and for log probabilities unless *reading*
    them; nothing else may have them.
    """
    for cut in [cutting.shorten] if reading else [logprobs.shorten, cutting.shorten]:
        short, found = cut(data)
        most = MAX_VALUES if reading else most_values(short)
        if found and _are_said(found, parse_json(short, most)):
            marks |= found
            data = short
    return bytes(data)


def _are_said(marks: Marks, chunk: Json) -> bool:
    """Whether all *marks* stand in log probabilities, texts, arguments and pictures of choices."""
    if not isinstance(chunk, dict) or find_error(chunk) is not None:
        return False
    choices = chunk.get("choices")
    texts: list[str] = []
    for one in choices if isinstance(choices, list) else ():
        if not isinstance(one, dict):
            continue
        texts.append(compact(one.get("logprobs")))
        said = one.get("delta") or one.get("message")
        for name, value in said.items() if isinstance(said, dict) else ():
            if isinstance(value, str):
                texts.append(value)
            elif name == "images":
                texts.append(compact(value))
            elif name == "tool_calls" and isinstance(value, list):
                calls = (call.get("function") for call in value if isinstance(call, dict))
                given = [call.get("arguments") for call in calls if isinstance(call, dict)]
                texts += [text for text in given if isinstance(text, str)]
    said = longtext.find_marks("".join(texts).encode("utf-8", "replace"), marks)
    return marks.keys() == {found[0] for found in said}


def parts(chunk: dict[str, Json]) -> Iterator[dict[str, Json]]:
    """Yield *chunk* as several that say as much, one after the other."""
    for one in chunk["choices"] or [None]:
        calls = (one["delta"].get("tool_calls") or []) if one else []
        if len(calls) <= AT_ONCE:
            yield {**chunk, "choices": [one] if one else []}
            continue
        for at in range(0, len(calls), AT_ONCE):
            delta = {**one["delta"], "tool_calls": calls[at : at + AT_ONCE]}
            yield {**chunk, "choices": [{**one, "delta": delta}]}
            one = {"index": one["index"], "delta": {}, "finish_reason": None}
