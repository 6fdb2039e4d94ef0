"""A source of chunks as what the caller gets: frames, or the one document of a completion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .. import sse
from ..errors import UpstreamTruncated
from .chunks import ChunkEncoder, dump
from .items import Delta, Finish, Item, Json, ToolCall, Usage
from .source import Source

_TRUNCATED = "the provider's answer ended before it was complete"


class _Reading:
    """What reading a source as frames and as a document have in common."""

    def __init__(self, source: Source, encoder: ChunkEncoder, n: int, label: str) -> None:
        self._source = source
        self._encoder = encoder
        self._n = n
        self.label = label
        self.ended = False
        self.usage: Usage | None = None

    def fileno(self) -> int | None:
        """Return the file descriptor to poll, or None."""
        return self._source.fileno()

    def close(self) -> None:
        """Stop the generation."""
        self._source.close()
        if self.usage is None:
            self.usage = self._source.usage  # of an answer that was broken off


class EncodedFrames(_Reading):
    """The frames of an answer of *n* choices, written by *encoder*.

    ``receive`` raises UpstreamTruncated when the source ends before every choice has its
    finish reason.
    """

    def __init__(self, source: Source, encoder: ChunkEncoder, n: int, label: str) -> None:
        super().__init__(source, encoder, n, label)
        self._finished: set[int] = set()

    def receive(self, timeout: float) -> bytes:
        """Return the frames that came within *timeout* seconds, joined."""
        if self._source.ended:
            return self._end()
        frames: list[bytes] = []
        for item in self._source.receive(timeout):
            if isinstance(item, Usage):
                self.usage = item
                continue
            if isinstance(item, Finish):
                self._finished.add(item.index)
            frames += map(sse.frame, self._encoder.encode(item))
        if self._source.ended and not (frames and len(self._finished) < self._n):
            frames.append(self._end())
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def _end(self) -> bytes:
        if len(self._finished) < self._n:
            raise UpstreamTruncated(_TRUNCATED)
        self.ended = True
        self.close()
        if self._encoder.include_usage and self.usage is not None:
            return sse.frame(self._encoder.usage(self.usage))
        return b""


class FoldedReply(_Reading):
    """The document of an answer of *n* choices, once all of it is there."""

    def __init__(self, source: Source, encoder: ChunkEncoder, n: int, label: str) -> None:
        super().__init__(source, encoder, n, label)
        self._fold = Fold(n)

    def receive(self, timeout: float) -> bytes:
        """Return the whole document once it is there, ``b""`` before.

        Raises UpstreamTruncated when the source ended before every choice was finished.
        """
        if not self._source.ended:
            for item in self._source.receive(timeout):
                self._fold.add(item)
        if not self._source.ended:
            return b""
        if not self._fold.complete:
            raise UpstreamTruncated(_TRUNCATED)
        self.ended = True
        self.usage = self._fold.usage
        self.close()
        head = self._encoder
        return dump(self._fold.completion(head.id, head.created, head.model))


@dataclass
class _Choice:
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    calls: dict[int, list[ToolCall]] = field(default_factory=dict)
    extra: dict[str, Json] = field(default_factory=dict)
    finish: Finish | None = None

    def add(self, delta: Delta) -> None:
        if delta.text:
            self.text.append(delta.text)
        if delta.reasoning:
            self.reasoning.append(delta.reasoning)
        if delta.refusal:
            self.refusal.append(delta.refusal)
        for call in delta.tool_calls:
            self.calls.setdefault(call.index, []).append(call)
        if delta.extra:
            merge(self.extra, delta.extra)

    def message(self) -> dict[str, Json]:
        text = "".join(self.text)
        message: dict[str, Json] = {
            "role": "assistant",
            "content": text if text or not (self.calls or self.refusal) else None,
        }
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.refusal:
            message["refusal"] = "".join(self.refusal)
        if self.calls:
            message["tool_calls"] = [_call(self.calls[index]) for index in sorted(self.calls)]
        message.update(self.extra)
        return message


def merge(into: dict[str, Json], members: Mapping[str, Json]) -> None:
    """Add *members* to *into*: objects are merged, lists and texts joined, others replaced."""
    for name, value in members.items():
        old = into.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            into[name] = old = dict(old)
            merge(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            into[name] = [*old, *value]
        elif isinstance(old, str) and isinstance(value, str):
            into[name] = old + value
        else:
            into[name] = value


def _call(pieces: list[ToolCall]) -> dict[str, Json]:
    call: dict[str, Json] = {
        "id": next((piece.id for piece in pieces if piece.id), ""),
        "type": "function",
        "function": {
            "name": next((piece.name for piece in pieces if piece.name), ""),
            "arguments": "".join(piece.arguments for piece in pieces),
        },
    }
    for piece in pieces:
        if piece.extra:
            merge(call, piece.extra)
    return call


class Fold:
    """Gathers the items of a stream of *n* choices; :meth:`completion` is the document."""

    def __init__(self, n: int = 1) -> None:
        self._choices = [_Choice() for _ in range(n)]
        self.usage: Usage | None = None

    def add(self, item: Item) -> None:
        """Take the next item."""
        if isinstance(item, Usage):
            self.usage = item
        elif isinstance(item, Finish):
            self._choices[item.index].finish = item
        else:
            self._choices[item.index].add(item)

    @property
    def complete(self) -> bool:
        """Whether every choice has its finish reason."""
        return all(choice.finish for choice in self._choices)

    def completion(self, id: str, created: int, model: str) -> dict[str, Json]:
        """Return the ``chat.completion`` object; usage is there when it was reported."""
        choices = [
            {
                "index": index,
                "message": choice.message(),
                "finish_reason": choice.finish.reason if choice.finish else None,
                **((choice.finish.extra if choice.finish else None) or {}),
            }
            for index, choice in enumerate(self._choices)
        ]
        document = {"id": id, "object": "chat.completion", "created": created, "model": model}
        usage = {"usage": self.usage.to_dict()} if self.usage else {}
        return {**document, "choices": choices, **usage}
