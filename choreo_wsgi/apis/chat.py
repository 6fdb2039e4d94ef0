"""Chat completions: the request, the chunks of a stream, the document.

https://platform.openai.com/docs/api-reference/chat describes each.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from .. import sse
from ..chat import items
from ..chat.answer import AnswerWriter
from ..chat.items import Delta, Finish, Item, Json, Marks, ToolCall, Usage, dump, quote
from ..chat.longtext import restore
from ..chat.request import ChatRequest, checked, loads_marked
from ..late import Late
from . import API

if TYPE_CHECKING:
    from ..chat import collected
else:
    collected = Late("choreo_wsgi.chat.collected")


class Identity(dict[str, Json]):
    """The ``id``, ``created`` and ``model`` of a chat answer.

    A missing id or time of creation is made up at its first use, as most upstreams send theirs.
    """

    def __init__(self, model: str, **members: Json) -> None:
        super().__init__(model=model, **members)

    def __missing__(self, name: str) -> Json:
        defaults = {"id": f"chatcmpl-{secrets.token_urlsafe(18)}", "created": int(time.time())}
        return self.setdefault(name, defaults[name])  # 144 random bits, and seconds since 1970


def new_writer(request: ChatRequest) -> AnswerWriter:
    """Return a new writer for the answer to *request*."""
    identity = Identity(request.model)
    if request.stream:
        return ChunkWriter(identity, request.include_usage)
    return CompletionWriter(identity, request.n)


class ChunkWriter(AnswerWriter):
    """Writes the chunks of one stream, each with its *identity*.

    With *include_usage* each chunk has ``"usage":null``, and one more chunk, without choices,
    reports the usage.
    """

    def __init__(self, identity: Identity, include_usage: bool = False) -> None:
        super().__init__(identity["model"])
        self.identity: Identity = identity
        self.include_usage = include_usage
        self._usage: Usage | None = None
        self._wrapping: dict[int, tuple[str, str]] = {}
        self._tail = '],"usage":null}' if include_usage else "]}"

    @cached_property
    def _head(self) -> str:
        # The beginning of every chunk is built once: a text delta then costs one escaped string
        # and one concatenation.
        return (
            f'{{"id":{quote(self.identity["id"])},"object":"chat.completion.chunk",'
            f'"created":{self.identity["created"]},"model":{quote(self.model)},"choices":['
        )

    @property
    def text_ends(self) -> tuple[bytes, bytes] | None:
        """The bytes around the text of the first choice; None before its role chunk."""
        if 0 not in self._wrapping:
            return None
        before, after = (end.encode("utf-8", "backslashreplace") for end in self._wrapping[0])
        return b'data: %b"' % before, b'"%b\n\n' % after

    def write(self, item: Item) -> bytes:
        """Return the frames for *item*, after the role chunk if its choice has had none yet."""
        if isinstance(item, Usage):
            self._usage = item
            return b""
        index = item.index
        role = b"" if index in self._wrapping else self._role(index)
        if isinstance(item, Finish):
            return role + self._choice(index, {}, item.reason, item.extra)
        if item.reasoning or item.tool_calls or item.refusal or item.extra or item.logprobs:
            more = {"logprobs": item.logprobs} if item.logprobs else item.extra and {}
            frame = self._choice(index, delta_object(item), None, more)
            return role + (restore(frame, item.marks) if item.marks else frame)
        if not item.text:
            return role
        before, after = self._wrapping[index]
        return role + sse.frame(_bytes(before + quote(item.text) + after))

    def finish(self) -> bytes:
        """Return the frame without choices that reports the usage, if the request includes it."""
        if self._usage is None or not self.include_usage:
            return b""
        usage = dump(self._usage.to_dict())
        return sse.frame(_bytes(self._head) + b'],"usage":' + usage + b"}")

    def _role(self, index: int) -> bytes:
        self._wrapping[index] = (
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
        encode = dump if extra is None else items.dump_large
        # In one expression, which frees each copy as soon as the next one is made.
        return sse.frame(b"".join((_bytes(self._head), encode(choice), self._tail.encode())))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


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
        members["tool_calls"] = [_call_piece(call) for call in delta.tool_calls]
    if delta.extra:
        members.update(delta.extra)
    return members


def _call_piece(call: ToolCall) -> dict[str, Json]:
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


class CompletionWriter(AnswerWriter):
    """Collects the items of an answer of *n* choices into one ``chat.completion``."""

    def __init__(self, identity: Identity, n: int = 1) -> None:
        super().__init__(identity["model"])
        self.identity: Identity = identity
        self._n = n
        self._marks: Marks = {}
        self._usage: Usage | None = None

    @cached_property
    def _choices(self) -> list[collected.Choice]:  # not used when a document is forwarded
        return [collected.Choice() for _ in range(self._n)]

    def write(self, item: Item) -> bytes:
        if isinstance(item, Usage):
            self._usage = item
        elif isinstance(item, Finish):
            self._choices[item.index].finish = item
        else:
            self._choices[item.index].add(item, self._marks)
        return b""

    def finish(self) -> bytes:
        """Return the document; it has a usage if the provider reported one."""
        document: dict[str, Json] = {
            "id": self.identity["id"],
            "object": "chat.completion",
            "created": self.identity["created"],
            "model": self.model,
            "choices": [one.members(at, self._marks) for at, one in enumerate(self._choices)],
        }
        if self._usage is not None:
            document["usage"] = self._usage.to_dict()
        many = any(choice.has_many for choice in self._choices)
        return restore(items.dump_large(document) if many else dump(document), self._marks)


APIS = {"chat": API(loads_marked, checked, new_writer)}
