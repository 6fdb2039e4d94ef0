"""The typed events of ``chat.completions.stream()``: what each chunk changed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Union

from .errors import unparsable
from .folding import Fold
from .models import ChatCompletion, ChatCompletionChunk, ChunkChoice, TokenLogprob
from .params import T
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


@dataclass
class TextDeltaEvent:
    """Text came, of the answer or of a refusal: *delta*; *snapshot* is all of it.

    *parsed* is the answer's snapshot as JSON, if a type was asked for.
    """

    type: Literal["content.delta", "refusal.delta"]
    delta: str
    snapshot: str
    parsed: Any = None


@dataclass
class ContentDoneEvent(Generic[T]):
    """The text is complete."""

    content: str
    parsed: T | None = None
    type: Literal["content.done"] = "content.done"


@dataclass
class RefusalDoneEvent:
    """The refusal is complete."""

    refusal: str
    type: Literal["refusal.done"] = "refusal.done"


@dataclass
class FunctionToolCallArgumentsEvent:
    """A piece of a call's arguments came, or they are complete; *arguments* are all of them."""

    type: Literal["tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"]
    name: str
    index: int
    arguments: str
    arguments_delta: str = ""
    parsed_arguments: Any = None


@dataclass
class LogprobsEvent:
    """Probabilities of tokens came, or are complete, of the text (*content*) or of a refusal.

    *snapshot* is all of them.
    """

    type: Literal[
        "logprobs.content.delta",
        "logprobs.content.done",
        "logprobs.refusal.delta",
        "logprobs.refusal.done",
    ]
    snapshot: list[TokenLogprob]
    content: list[TokenLogprob] = field(default_factory=list)
    refusal: list[TokenLogprob] = field(default_factory=list)


ChatCompletionStreamEvent = Union[
    ChunkEvent,
    TextDeltaEvent,
    ContentDoneEvent[T],
    RefusalDoneEvent,
    FunctionToolCallArgumentsEvent,
    LogprobsEvent,
]


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

    def _deltas(self, index: int, choice: ChunkChoice) -> Iterator[ChatCompletionStreamEvent[T]]:
        kind: Any
        for name in ("content", "refusal"):
            if (piece := getattr(choice.delta, name)) is not None:
                text = self._begun[index, name] = self.fold.text(index, name)
                read = self.parser.content(text, partial=True) if name == "content" else None
                kind = f"{name}.delta"
                yield TextDeltaEvent(kind, piece, text, read)
            if tokens := getattr(choice.logprobs, name, None):
                seen = self._begun.setdefault((index, f"logprobs.{name}"), [])
                seen += tokens
                kind = f"logprobs.{name}.delta"
                yield LogprobsEvent(kind, [*seen], **{name: tokens})
        for call in choice.delta.tool_calls or ():
            number = call.index or 0
            name, arguments = self.fold.function(index, number)
            kind = "tool_calls.function.arguments.delta"
            added = call.function.arguments or ""
            yield FunctionToolCallArgumentsEvent(kind, name, number, arguments, added)
            if number != self._begun.get((index, "call")):
                yield from self._finish(index)
                self._begun[index, "call"] = number

    def _finish(self, index: int) -> Iterator[ChatCompletionStreamEvent[T]]:
        """Yield that what has begun in choice *index* is done."""
        kind: Any
        if text := self._begun.pop((index, "content"), None):
            refused = self.fold.text(index, "refusal")
            yield ContentDoneEvent(text, self.parser.content(None if refused else text))
        if refusal := self._begun.pop((index, "refusal"), None):
            yield RefusalDoneEvent(refusal)
        for name in ("content", "refusal"):
            if tokens := self._begun.pop((index, f"logprobs.{name}"), None):
                kind = f"logprobs.{name}.done"
                yield LogprobsEvent(kind, tokens, **{name: tokens})
        if (call := self._begun.pop((index, "call"), None)) is not None:
            name, arguments = self.fold.function(index, call)
            read = self.parser.arguments(name, arguments)
            kind = "tool_calls.function.arguments.done"
            yield FunctionToolCallArgumentsEvent(kind, name, call, arguments, "", read)
