"""Chat chunks: what a model says piece by piece, and the JSON of the OpenAI API for it.

A source hands over :class:`Delta`, :class:`Finish` and :class:`Usage`; a
:class:`ChunkEncoder` turns each into the JSON of ``chat.completion.chunk`` objects.
Everything that is the same in every chunk of a stream is built once: a text delta costs
one escaped string and one concatenation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from json.encoder import encode_basestring as _quote  # the C function where there is one
from typing import Any

from .items import Delta, Finish, Json, ToolCall, Usage


def _make_encoder() -> Callable[[Json], str]:
    encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # not CPython
        return encoder.encode
    # JSONEncoder makes one of these for every document, which takes longer than a chunk does.
    pieces = make(None, encoder.default, _quote, None, ":", ",", False, False, True)
    return lambda value: "".join(pieces(value, 0))


_encode = _make_encoder()


def dump(value: Json) -> bytes:
    """Return *value* as compact UTF-8 JSON: no spaces, nothing escaped that need not be."""
    return _encode(value).encode("utf-8", "replace")


def delta_object(delta: Delta) -> dict[str, Json]:
    """Return the ``delta`` member for *delta*, without its role."""
    members: dict[str, Json] = {}
    if delta.text:
        members["content"] = delta.text
    if delta.reasoning:
        members["reasoning_content"] = delta.reasoning
    if delta.refusal:
        members["refusal"] = delta.refusal
    if delta.tool_calls:
        members["tool_calls"] = [_tool_call_object(call) for call in delta.tool_calls]
    if delta.extra:
        members.update(delta.extra)
    return members


def _tool_call_object(call: ToolCall) -> dict[str, Json]:
    members: dict[str, Json] = {"index": call.index}
    function: dict[str, Json] = {}
    if call.id:
        members.update(id=call.id, type="function")
        function["name"] = call.name
    function["arguments"] = call.arguments
    members["function"] = function
    if call.extra:
        members.update(call.extra)
    return members


@dataclass
class ChunkEncoder:
    """Writes the chunks of one stream.

    *id* and *created* (seconds since 1970) stand on every chunk, and so does *model*, the
    name that was asked for.  With *include_usage* each chunk has ``"usage":null`` and
    :meth:`usage` writes the last one.
    """

    id: str
    created: int
    model: str
    include_usage: bool = False
    _started: set[int] = field(default_factory=set, repr=False)
    _text: dict[int, tuple[str, str]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._head = (
            f'{{"id":{_quote(self.id)},"object":"chat.completion.chunk",'
            f'"created":{self.created},"model":{_quote(self.model)},"choices":['
        )
        self._tail = '],"usage":null}' if self.include_usage else "]}"
        self._head_bytes = self._head.encode("utf-8", "replace")
        self._tail_bytes = self._tail.encode()

    def encode(self, item: Delta | Finish) -> list[bytes]:
        """Return the chunks for *item*: the role chunk first when its choice had none yet."""
        index = item.index
        chunks = [] if index in self._started else [self._role(index)]
        if isinstance(item, Finish):
            chunks.append(self._choice(index, {}, item.reason, item.extra))
        elif item.reasoning or item.tool_calls or item.refusal or item.extra:
            chunks.append(self._choice(index, delta_object(item)))
        elif item.text:
            before, after = self._text[index]
            chunks.append((before + _quote(item.text) + after).encode("utf-8", "replace"))
        return chunks

    def usage(self, usage: Usage) -> bytes:
        """Return the chunk without choices that reports *usage*."""
        return self._head_bytes + b'],"usage":' + dump(usage.to_dict()) + b"}"

    def _role(self, index: int) -> bytes:
        self._started.add(index)
        self._text[index] = (
            f'{self._head}{{"index":{index},"delta":{{"content":',
            f'}},"finish_reason":null}}{self._tail}',
        )
        return self._choice(index, {"role": "assistant", "content": ""})

    def _choice(
        self,
        index: int,
        delta: dict[str, Json],
        reason: str | None = None,
        extra: Mapping[str, Json] | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": reason, **(extra or {})}
        return self._head_bytes + dump(choice) + self._tail_bytes
