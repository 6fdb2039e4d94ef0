"""The typed events of ``chat.completions.stream()``: the changes that each chunk brings."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Union

from .errors import incomplete_error
from .folding import Fold
from .models import ChatCompletion, ChatCompletionChunk, ChunkChoice
from .models.events import BY_TYPE, StreamEvent
from .options import T
from .parsing import Parser
from .reading import Reading


@dataclass
class ChunkEvent:
    """A chunk was received; *snapshot* is the answer so far, at the time that it is read."""

    chunk: ChatCompletionChunk
    _fold: Fold = field(repr=False, compare=False)
    type: Literal["chunk"] = "chunk"

    @property
    def snapshot(self) -> ChatCompletion:
        """The answer so far."""
        return self._fold.completion()


ChatCompletionStreamEvent = Union[ChunkEvent, StreamEvent[T]]


class EventReading(Reading, Generic[T]):
    """A stream as far as it was read; *events* holds the typed events not handed out yet."""

    def __init__(self, n: int, parser: Parser[T]) -> None:
        super().__init__(n)
        self.parser = parser
        self.events: deque[ChatCompletionStreamEvent[T]] = deque()
        # The unfinished parts by choice and kind: the text, the logprobs, or the call's number.
        self._begun: dict[tuple[int, str], Any] = {}
        self._done: set[tuple[int, str]] = set()  # the finished ones, except calls

    def events_of(self, chunk: ChatCompletionChunk) -> Iterator[ChatCompletionStreamEvent[T]]:
        """Yield the events of *chunk*, which was already added to the fold.

        Raises LengthFinishReasonError and ContentFilterFinishReasonError.
        """
        for choice in chunk.choices if self.parser.active else ():
            if choice.finish_reason and (
                error := incomplete_error(choice.finish_reason, self.fold.completion())
            ):
                raise error
        yield ChunkEvent(chunk, self.fold)
        for choice in chunk.choices:
            index = choice.index or 0
            yield from self._deltas(index, choice)
            if choice.finish_reason is not None:
                yield from self._finish(index)

    def last_events(self) -> Iterator[ChatCompletionStreamEvent[T]]:
        """Yield the ``done`` events of the choices that ``[DONE]`` finished."""
        for index in sorted({index for index, _ in self._begun}):
            yield from self._finish(index)

    def _deltas(self, index: int, choice: ChunkChoice) -> Iterator[Any]:
        for name in ("content", "refusal"):
            if (piece := getattr(choice.delta, name)) is not None:
                text = self._begun[index, name] = self.fold.text(index, name)
                parsed = {"parsed": self.parser.content(text, partial=True)}
                parsed = parsed if name == "content" else {}
                yield _event(f"{name}.delta", delta=piece, snapshot=text, **parsed)
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
        """Yield the ``done`` events for all parts of choice *index* that have begun."""
        if text := self._take(index, "content"):
            parsed = None if self.fold.text(index, "refusal") else self.parser.content(text)
            yield _event("content.done", content=text, parsed=parsed)
        if refusal := self._take(index, "refusal"):
            yield _event("refusal.done", refusal=refusal)
        for name in ("content", "refusal"):
            if tokens := self._take(index, f"logprobs.{name}"):
                yield _event(f"logprobs.{name}.done", **{name: tokens})
        if (number := self._begun.pop((index, "call"), None)) is not None:
            yield self._call("done", index, number)

    def _take(self, index: int, name: str) -> Any:
        """Remove and return the unfinished part *name*; None if there is none, or it was done."""
        part = self._begun.pop((index, name), None)
        if not part or (index, name) in self._done:
            return None
        self._done.add((index, name))
        return part

    def _call(self, phase: str, index: int, number: int, **more: str) -> Any:
        name, arguments = self.fold.function(index, number)
        parsed = self.parser.arguments(name, arguments, partial=phase == "delta")
        members = {"name": name, "index": number, "arguments": arguments}
        kind = f"tool_calls.function.arguments.{phase}"
        return _event(kind, **members, parsed_arguments=parsed, **more)


def _event(kind: str, **members: Any) -> Any:
    return BY_TYPE[kind](type=kind, **members)
