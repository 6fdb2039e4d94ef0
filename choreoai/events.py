"""The typed events of ``chat.completions.stream()``: what each chunk changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Union

from .folding import Fold
from .models import ChatCompletion, ChatCompletionChunk, ChunkChoice, TokenLogprob
from .parsing import UNPARSABLE, Parser, T


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
class ContentDeltaEvent:
    """Text came: *delta*; *snapshot* is all of it, *parsed* that as JSON if a type was asked."""

    delta: str
    snapshot: str
    parsed: Any = None
    type: Literal["content.delta"] = "content.delta"


@dataclass
class ContentDoneEvent(Generic[T]):
    """The text is complete."""

    content: str
    parsed: T | None = None
    type: Literal["content.done"] = "content.done"


@dataclass
class RefusalDeltaEvent:
    """A piece of a refusal came."""

    delta: str
    snapshot: str
    type: Literal["refusal.delta"] = "refusal.delta"


@dataclass
class RefusalDoneEvent:
    """The refusal is complete."""

    refusal: str
    type: Literal["refusal.done"] = "refusal.done"


@dataclass
class FunctionToolCallArgumentsDeltaEvent:
    """A piece of a call's arguments came; *arguments* are all of them."""

    name: str
    index: int
    arguments: str
    arguments_delta: str
    parsed_arguments: Any = None
    type: Literal["tool_calls.function.arguments.delta"] = "tool_calls.function.arguments.delta"


@dataclass
class FunctionToolCallArgumentsDoneEvent:
    """The arguments of a call are complete."""

    name: str
    index: int
    arguments: str
    parsed_arguments: Any = None
    type: Literal["tool_calls.function.arguments.done"] = "tool_calls.function.arguments.done"


@dataclass
class LogprobsContentDeltaEvent:
    """Probabilities of tokens came."""

    content: list[TokenLogprob]
    snapshot: list[TokenLogprob]
    type: Literal["logprobs.content.delta"] = "logprobs.content.delta"


@dataclass
class LogprobsContentDoneEvent:
    """The probabilities are complete."""

    content: list[TokenLogprob]
    type: Literal["logprobs.content.done"] = "logprobs.content.done"


@dataclass
class LogprobsRefusalDeltaEvent:
    """Probabilities of a refusal's tokens came."""

    refusal: list[TokenLogprob]
    snapshot: list[TokenLogprob]
    type: Literal["logprobs.refusal.delta"] = "logprobs.refusal.delta"


@dataclass
class LogprobsRefusalDoneEvent:
    """The probabilities of a refusal's tokens are complete."""

    refusal: list[TokenLogprob]
    type: Literal["logprobs.refusal.done"] = "logprobs.refusal.done"


ChatCompletionStreamEvent = Union[
    ChunkEvent,
    ContentDeltaEvent,
    ContentDoneEvent[T],
    RefusalDeltaEvent,
    RefusalDoneEvent,
    FunctionToolCallArgumentsDeltaEvent,
    FunctionToolCallArgumentsDoneEvent,
    LogprobsContentDeltaEvent,
    LogprobsContentDoneEvent,
    LogprobsRefusalDeltaEvent,
    LogprobsRefusalDoneEvent,
]

_LOGPROBS = {
    "content": (LogprobsContentDeltaEvent, LogprobsContentDoneEvent),
    "refusal": (LogprobsRefusalDeltaEvent, LogprobsRefusalDoneEvent),
}


class _Choice:
    """How far one choice has come: what was said to be done, and the call that is open."""

    def __init__(self) -> None:
        self.call: int | None = None
        self.done: set[str] = set()
        self.logprobs: dict[str, list[TokenLogprob]] = {}


class Events(Generic[T]):
    """Turns the chunks of a stream into events.  Pure."""

    def __init__(self, fold: Fold, parser: Parser[T]) -> None:
        self._fold = fold
        self._parser = parser
        self._choices: dict[int, _Choice] = {}

    def of(self, chunk: ChatCompletionChunk) -> Iterator[ChatCompletionStreamEvent[T]]:
        """Yield the events of *chunk*, which the fold has taken already.

        Raises LengthFinishReasonError and ContentFilterFinishReasonError.
        """
        for choice in chunk.choices:
            kind = UNPARSABLE.get(choice.finish_reason)
            if kind is not None and self._parser.active:
                raise kind(completion=self._fold.completion())
        yield ChunkEvent(chunk, self._fold)
        for choice in chunk.choices:
            index = choice.index or 0
            known = self._choices.setdefault(index, _Choice())
            yield from self._deltas(index, choice, known)
            if choice.finish_reason is not None:
                yield from self._content_done(index, known)
                yield from self._call_done(index, known)

    def _deltas(
        self, index: int, choice: ChunkChoice, known: _Choice
    ) -> Iterator[ChatCompletionStreamEvent[T]]:
        delta = choice.delta
        if delta.content is not None:
            text = self._fold.text(index)
            parsed = self._parser.content({"content": text}, partial=True)
            yield ContentDeltaEvent(delta.content, text, parsed)
        if delta.refusal is not None:
            yield RefusalDeltaEvent(delta.refusal, self._fold.text(index, "refusal"))
        for name, (kind, _) in _LOGPROBS.items():
            if tokens := getattr(choice.logprobs, name, None):
                seen = known.logprobs.setdefault(name, [])
                seen += tokens
                yield kind(tokens, list(seen))
        for piece in delta.tool_calls or ():
            number = piece.index or 0
            name, arguments = self._fold.function(index, number)
            added = piece.function.arguments or ""
            yield FunctionToolCallArgumentsDeltaEvent(name, number, arguments, added)
            if number != known.call:
                yield from self._content_done(index, known)
                yield from self._call_done(index, known)
                known.call = number

    def _content_done(self, index: int, known: _Choice) -> Iterator[ChatCompletionStreamEvent[T]]:
        text, refusal = self._fold.text(index), self._fold.text(index, "refusal")
        if text and "content" not in known.done:
            known.done.add("content")
            message = {"content": text, "refusal": refusal}
            yield ContentDoneEvent(text, self._parser.content(message))
        if refusal and "refusal" not in known.done:
            known.done.add("refusal")
            yield RefusalDoneEvent(refusal)
        for name, (_, kind) in _LOGPROBS.items():
            if found := known.logprobs.pop(name, None):
                yield kind(found)

    def _call_done(self, index: int, known: _Choice) -> Iterator[ChatCompletionStreamEvent[T]]:
        if known.call is not None:
            name, arguments = self._fold.function(index, known.call)
            parsed = self._parser.arguments(name, arguments)
            yield FunctionToolCallArgumentsDoneEvent(name, known.call, arguments, parsed)
            known.call = None
