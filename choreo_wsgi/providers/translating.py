"""What translators of answers have in common: calls and pictures that came whole, long texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from ..chat import aside
from ..chat.items import Delta, Finish, Item, Json, Marks, ToolCall, dump
from ..chat.longtext import restore
from ..errors import UpstreamInvalid
from .reading import decode, parse_json


def json_values(body: bytes) -> list[Json]:
    """Return the values in *body*: of one document, of an array, or of JSON lines; else none."""
    for texts in ([body], body.splitlines()):
        try:
            values = [parse_json(text) for text in texts if text.strip() not in (b"", b"[DONE]")]
        except UpstreamInvalid:
            continue
        return values[0] if len(values) == 1 and isinstance(values[0], list) else values
    return []


def arguments(value: Json, marks: Marks | None = None) -> list[str]:
    """Return a call's arguments, which came whole, as compact JSON text, in pieces.

    Raises UpstreamInvalid for what is not an object, or the JSON text of one.
    """
    marks = marks or {}
    given: list[str] = []
    if isinstance(value, str):
        given = list(aside.pieces(value, marks)) if value.strip() else []
        try:
            value = aside.parse_pieces(given, {}, decode) if given else {}
        except ValueError:
            value = [value]
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise UpstreamInvalid("the provider sent a tool call whose arguments are not JSON")
    if given and value:
        return given
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if not aside.has_marks(text):
        return [text]
    return list(aside.decoded(restore(text.encode("utf-8", "backslashreplace"), marks)))


def whole_call(
    number: int,
    id: str,
    name: str,
    given: Iterable[str],
    index: int = 0,
    extra: dict[str, Json] | None = None,
) -> list[Item]:
    """Return a tool call that came whole as any other: who is called first, then with what."""
    calls = [ToolCall(number, id, name, "", extra)]
    calls += [ToolCall(number, arguments=piece) for piece in given]
    return [Delta(index=index, tool_calls=[call]) for call in calls]


def picture(
    number: int,
    media_type: str,
    data: str,
    index: int = 0,
    extra: Mapping[str, Json] | None = None,
) -> Delta:
    """Return a picture that the model drew, in OpenRouter's form; *data* is base64.

    *number* counts the pictures of a choice, so that a client that folds deltas keeps them apart.
    """
    url = f"data:{media_type};base64,{data}"
    image = {"index": number, "type": "image_url", "image_url": {"url": url}, **(extra or {})}
    return Delta(index=index, extra={"images": [image]})


def spread(items: Iterable[Item], marks: Marks) -> Iterator[Item]:
    """Yield *items* with what *marks* stand for: of a long text one piece after the other."""
    for item in items:
        if isinstance(item, Finish) and item.extra:
            item = replace(item, extra=_restored(item.extra, marks))
        if not isinstance(item, Delta):
            yield item
            continue
        index = item.index
        yield from (
            Delta("", index, piece) for piece in aside.pieces(item.reasoning, marks) if piece
        )
        yield from (Delta(piece, index) for piece in aside.pieces(item.text, marks) if piece)
        for piece in filter(None, aside.pieces(item.refusal, marks)):
            yield Delta(index=index, refusal=piece)
        for call in item.tool_calls:
            first, *others = aside.pieces(call.arguments, marks)
            yield Delta(index=index, tool_calls=[replace(call, arguments=first)])
            for piece in others:
                yield Delta(index=index, tool_calls=[ToolCall(call.index, arguments=piece)])
        if item.extra or item.logprobs:
            found = aside.marks_in(dump(item.extra), marks) | (item.marks or {})
            logprobs = item.logprobs and _restored(item.logprobs, marks)
            yield Delta(index=index, extra=item.extra, logprobs=logprobs, marks=found or None)


def _restored(value: Mapping[str, Json], marks: Marks) -> dict[str, Json]:
    restored: dict[str, Json] = json.loads(restore(dump(value), marks))
    return restored
