"""The typed events of ``chat.completions.stream()``: what each chunk changed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Union

from .errors import unparsable
from .folding import Fold
from .models import ChatCompletion, ChatCompletionChunk, ChunkChoice
from .models.events import BY_TYPE, StreamEvent
from .options import T
from .parsing import Parser
from .reading import Reading


@dataclass
class ChunkEvent:
    """A chunk came; *snapshot* is the answer as far as it has come when it is asked for."""

    chunk: ChatCompletionChunk
    _fold: Fold = field(repr=False, compare=False)
    type: Literal["chunk"] = "chunk"

    @property
    def snapshot(self) -> ChatCompletion:
        """The answer so far."""
        return self._fold.completion()


ChatCompletionStreamEvent = Union[ChunkEvent, StreamEvent[T]]


class EventReading(Reading, Generic[T]):
    """A stream as far as it was read, whose chunks are also told as events, ready in *events*."""

    def __init__(self, n: int, parser: Parser[T]) -> None:
        super().__init__(n)
        self.parser = parser
        self.events: deque[ChatCompletionStreamEvent[T]] = deque()
        # What has begun in a choice and is not done: its text, logprobs, the number of a call.
        self._begun: dict[tuple[int, str], Any] = {}

    def of(self, chunk: ChatCompletionChunk) -> Iterator[ChatCompletionStreamEvent[T]]:
        """Yield the events of *chunk*, which the fold has taken already.

        Raises LengthFinishReasonError and ContentFilterFinishReasonError.
        """
        for choice in chunk.choices if self.parser.active else ():
            if choice.finish_reason and (
                error := unparsable(choice.finish_reason, self.fold.completion())
            ):
                raise error
        yield ChunkEvent(chunk, self.fold)
        for choice in chunk.choices:
            index = choice.index or 0
            yield from self._deltas(index, choice)
            if choice.finish_reason is not None:
                yield from self._finish(index)

    def _deltas(self, index: int, choice: ChunkChoice) -> Iterator[Any]:
        for name in ("content", "refusal"):
            if (piece := getattr(choice.delta, name)) is not None:
                text = self._begun[index, name] = self.fold.text(index, name)
                read = {"parsed": self.parser.content(text, partial=True)}
                more = read if name == "content" else {}
                yield _event(f"{name}.delta", delta=piece, snapshot=text, **more)
            if tokens := getattr(choice.logprobs, name, None):
                seen = self._begun.setdefault((index, f"logprobs.{name}"), [])
                seen += tokens
                yield _event(f"logprobs.{name}.delta", snapshot=[*seen], **{name: tokens})
        for call in choice.delta.tool_calls or ():
            number = call.index or 0
            yield self._call("delta", index, number, arguments_delta=call.function.arguments or "")
            if number != self._begun.get((index, "call")):
                yield from self._finish(index)
                self._begun[index, "call"] = number

    def _finish(self, index: int) -> Iterator[Any]:
        """Yield that what has begun in choice *index* is done."""
        if text := self._begun.pop((index, "content"), None):
            read = None if self.fold.text(index, "refusal") else self.parser.content(text)
            yield _event("content.done", content=text, parsed=read)
        if refusal := self._begun.pop((index, "refusal"), None):
            yield _event("refusal.done", refusal=refusal)
        for name in ("content", "refusal"):
            if tokens := self._begun.pop((index, f"logprobs.{name}"), None):
                yield _event(f"logprobs.{name}.done", **{name: tokens})
        if (number := self._begun.pop((index, "call"), None)) is not None:
            yield self._call("done", index, number)

    def _call(self, what: str, index: int, number: int, **more: str) -> Any:
        name, arguments = self.fold.function(index, number)
        read = self.parser.arguments(name, arguments, partial=what == "delta")
        members = {"name": name, "index": number, "arguments": arguments, "parsed_arguments": read}
        return _event(f"tool_calls.function.arguments.{what}", **members, **more)


def _event(kind: str, **members: Any) -> Any:
    return BY_TYPE[kind](type=kind, **members)
