"""Chat chunks: what a model says piece by piece, and the JSON of the OpenAI API for it.

A source hands over :class:`Delta`, :class:`Finish` and :class:`Usage`; a
:class:`ChunkEncoder` turns each into the JSON of ``chat.completion.chunk`` objects.
Everything that is the same in every chunk of a stream is built once: a text delta costs
one escaped string and one concatenation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring as _quote  # the C function where there is one
from typing import Any, Union

__all__ = ["ChunkEncoder", "Delta", "Finish", "Item", "ToolCall", "Usage", "dump"]

Json = Any  # what json.loads returns


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


@dataclass(slots=True)
class ToolCall:
    """A piece of a tool call.

    *index* counts the calls of a choice from 0.  The first piece of a call has its *id* and
    *name*; all pieces' *arguments* joined are one JSON document.  *extra* holds further
    members, as Google's ``extra_content``.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""
    extra: Mapping[str, Json] | None = None


@dataclass(slots=True)
class Delta:
    """A piece of an answer; *index* is the choice (0 to n-1) that it belongs to."""

    text: str = ""
    index: int = 0
    reasoning: str = ""
    refusal: str = ""
    tool_calls: Sequence[ToolCall] = ()
    extra: Mapping[str, Json] | None = None


@dataclass(slots=True)
class Finish:
    """The end of a choice: ``stop``, ``length``, ``tool_calls`` or ``content_filter``.

    *extra* holds further members of the choice, as the provider's own stop reason.
    """

    reason: str = "stop"
    index: int = 0
    extra: Mapping[str, Json] | None = None


@dataclass(slots=True)
class Usage:
    """How many tokens were read and written; None where the provider did not say.

    *prompt_tokens* is all that was read, cached or not; *completion_tokens* all that was
    written, reasoning included.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            _sum(self.cached_tokens, other.cached_tokens),
            _sum(self.cache_write_tokens, other.cache_write_tokens),
            _sum(self.reasoning_tokens, other.reasoning_tokens),
        )

    def to_dict(self) -> dict[str, Json]:
        """Return the ``usage`` object of the API; an explicit 0 stays 0."""
        usage: dict[str, Json] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }
        prompt = {
            "cached_tokens": self.cached_tokens,
            "cache_write_tokens": self.cache_write_tokens,
        }
        prompt = {name: count for name, count in prompt.items() if count is not None}
        if prompt:
            usage["prompt_tokens_details"] = prompt
        if self.reasoning_tokens is not None:
            usage["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        return usage


Item = Union[Delta, Finish, Usage]


def _sum(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else a + b


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

    def resume(self, index: int = 0) -> None:
        """Go on with a choice whose role chunk was written before."""
        self._role(index)

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
