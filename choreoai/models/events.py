"""Generated from the types of openai 3.57.0 by `make sync`."""

from __future__ import annotations

from typing import Any, Generic, Literal, Union

from ..objects import Object
from ..options import T
from .chat import TokenLogprob


class ContentDeltaEvent(Object):
    """A piece of the text, *delta*; *snapshot* is the text so far, *parsed* its value as JSON."""

    type: Literal["content.delta"]
    delta: str
    snapshot: str
    parsed: Any = None


class ContentDoneEvent(Object, Generic[T]):
    """The text is complete."""

    type: Literal["content.done"]
    content: str
    parsed: T | None = None


class RefusalDeltaEvent(Object):
    """A piece of the refusal."""

    type: Literal["refusal.delta"]
    delta: str
    snapshot: str


class RefusalDoneEvent(Object):
    """The refusal is complete."""

    type: Literal["refusal.done"]
    refusal: str


class FunctionToolCallArgumentsDeltaEvent(Object):
    """A piece of a call's *arguments*, *arguments_delta*."""

    type: Literal["tool_calls.function.arguments.delta"]
    name: str
    index: int
    arguments: str
    parsed_arguments: Any = None
    arguments_delta: str


class FunctionToolCallArgumentsDoneEvent(Object):
    """The *arguments* of a call are complete."""

    type: Literal["tool_calls.function.arguments.done"]
    name: str
    index: int
    arguments: str
    parsed_arguments: Any = None


class LogprobsContentDeltaEvent(Object):
    """The probabilities of new tokens of the text."""

    type: Literal["logprobs.content.delta"]
    content: list[TokenLogprob]
    snapshot: list[TokenLogprob]


class LogprobsContentDoneEvent(Object):
    """The probabilities of the text's tokens are complete."""

    type: Literal["logprobs.content.done"]
    content: list[TokenLogprob]


class LogprobsRefusalDeltaEvent(Object):
    """The probabilities of new tokens of a refusal."""

    type: Literal["logprobs.refusal.delta"]
    refusal: list[TokenLogprob]
    snapshot: list[TokenLogprob]


class LogprobsRefusalDoneEvent(Object):
    """The probabilities of a refusal's tokens are complete."""

    type: Literal["logprobs.refusal.done"]
    refusal: list[TokenLogprob]


BY_TYPE: dict[str, type[Object]] = {
    "content.delta": ContentDeltaEvent,
    "content.done": ContentDoneEvent,
    "refusal.delta": RefusalDeltaEvent,
    "refusal.done": RefusalDoneEvent,
    "tool_calls.function.arguments.delta": FunctionToolCallArgumentsDeltaEvent,
    "tool_calls.function.arguments.done": FunctionToolCallArgumentsDoneEvent,
    "logprobs.content.delta": LogprobsContentDeltaEvent,
    "logprobs.content.done": LogprobsContentDoneEvent,
    "logprobs.refusal.delta": LogprobsRefusalDeltaEvent,
    "logprobs.refusal.done": LogprobsRefusalDoneEvent,
}
StreamEvent = Union[
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
