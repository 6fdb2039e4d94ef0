"""Generated from the types of openai 3.57.0 by `make sync`."""

from __future__ import annotations

from typing import Any, Generic

from ..objects import Listing, Object
from ..options import T


class Function(Object):
    """The function of a call; *arguments* is JSON text, *parsed_arguments* its value."""

    _extensions = frozenset(("parsed_arguments",))
    arguments: str | None = None
    name: str | None = None
    parsed_arguments: Any = None


class ToolCall(Object):
    """A tool call."""

    id: str | None = None
    function: Function
    type: str | None = None


class ChunkToolCall(Object):
    """A piece of the tool call number *index*."""

    index: int | None = None
    id: str | None = None
    function: Function
    type: str | None = None


class URLCitation(Object):
    """A web page cited from *start_index* to *end_index* of the text."""

    end_index: int | None = None
    start_index: int | None = None
    title: str | None = None
    url: str | None = None


class Annotation(Object):
    """An annotation of the text."""

    type: str | None = None
    url_citation: URLCitation | None = None


class Audio(Object):
    """Spoken output of the model; *data* is base64."""

    id: str | None = None
    data: str | None = None
    expires_at: int | None = None
    transcript: str | None = None


class Message(Object):
    """A message of the model."""

    _extensions = frozenset(("reasoning_content",))
    content: str | None = None
    refusal: str | None = None
    role: str | None = None
    annotations: list[Annotation] | None = None
    audio: Audio | None = None
    function_call: Function | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning_content: str | None = None


class Delta(Object):
    """A piece of a message."""

    _extensions = frozenset(("annotations", "reasoning_content"))
    audio: Audio | None = None
    content: str | None = None
    function_call: Function | None = None
    refusal: str | None = None
    role: str | None = None
    tool_calls: list[ChunkToolCall] | None = None
    annotations: list[Annotation] | None = None
    reasoning_content: str | None = None


class PromptTokensDetails(Object):
    """The numbers of input tokens by kind."""

    audio_tokens: int | None = None
    cache_write_tokens: int | None = None
    cached_tokens: int | None = None
    image_tokens: int | None = None
    text_tokens: int | None = None


class CompletionTokensDetails(Object):
    """The numbers of output tokens by kind."""

    accepted_prediction_tokens: int | None = None
    audio_tokens: int | None = None
    reasoning_tokens: int | None = None
    rejected_prediction_tokens: int | None = None
    text_tokens: int | None = None


class Usage(Object):
    """The numbers of input and output tokens of the call."""

    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    total_tokens: int | None = None
    completion_tokens_details: CompletionTokensDetails | None = None
    prompt_tokens_details: PromptTokensDetails | None = None


class TopLogprob(Object):
    """An alternative token and the logarithm of its probability."""

    token: str | None = None
    bytes: list[int] | None = None
    logprob: float | None = None


class TokenLogprob(Object):
    """A token of the answer, and the most probable tokens in its place."""

    token: str | None = None
    bytes: list[int] | None = None
    logprob: float | None = None
    top_logprobs: list[TopLogprob] | None = None


class Logprobs(Object):
    """The tokens of a choice with their probabilities."""

    content: list[TokenLogprob] | None = None
    refusal: list[TokenLogprob] | None = None


class Choice(Object):
    """One of the *n* answers."""

    finish_reason: str | None = None
    index: int
    logprobs: Logprobs | None = None
    message: Message


class ChunkChoice(Object):
    """A piece of one of the *n* answers."""

    delta: Delta
    index: int
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class ChatCompletion(Object):
    """A whole answer."""

    id: str | None = None
    choices: list[Choice]
    created: int | None = None
    model: str | None = None
    object: str | None = None
    metadata: dict[str, str] | None = None
    moderation: Any = None
    service_tier: str | None = None
    system_fingerprint: str | None = None
    usage: Usage | None = None


class ChatCompletionChunk(Object):
    """A piece of a streamed answer; the last one may have the usage and no choices."""

    id: str | None = None
    choices: list[ChunkChoice]
    created: int | None = None
    model: str | None = None
    object: str | None = None
    moderation: Any = None
    obfuscation: str | None = None
    service_tier: str | None = None
    system_fingerprint: str | None = None
    usage: Usage | None = None


class ParsedMessage(Message, Generic[T]):
    """A message; *parsed* is its content, None for a refusal."""

    parsed: T | None = None


class ParsedChoice(Choice, Generic[T]):
    """One of the answers, parsed."""

    message: ParsedMessage[T]


class ParsedChatCompletion(ChatCompletion, Generic[T]):
    """A whole answer, parsed."""

    choices: list[ParsedChoice[T]]  # type: ignore[assignment]


class Model(Object):
    """A model of the server; requests name it by its *id*."""

    id: str | None = None
    created: int | None = None
    object: str | None = None
    owned_by: str | None = None
    shutdown_date: str | None = None


class ModelList(Listing):
    """The models of a server; iterating yields those in *data*."""

    data: list[Model]
    object: str | None = None
