"""The documented parameters, generated from the types of openai 3.57.0 by `make sync`.

With them a type checker knows every parameter of ``create``, ``parse`` and ``stream``; a
misspelled one is an error for the type checker and at run time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, overload

from .options import CallOptions, Messages, T

if TYPE_CHECKING:
    from typing_extensions import Required, Unpack


class CompletionParams(CallOptions, total=False):
    """The parameters of chat completions, as in OpenAI's reference."""

    messages: Required[Messages]
    model: Required[str]
    audio: Mapping[str, Any] | None
    frequency_penalty: float | None
    function_call: Literal["none", "auto"] | Mapping[str, Any]
    functions: Iterable[Mapping[str, Any]]
    logit_bias: Mapping[str, int] | None
    logprobs: bool | None
    max_completion_tokens: int | None
    max_tokens: int | None
    metadata: Mapping[str, str] | None
    modalities: Sequence[Literal["text", "audio"]] | None
    moderation: Mapping[str, Any] | None
    n: int | None
    parallel_tool_calls: bool | None
    prediction: Mapping[str, Any] | None
    presence_penalty: float | None
    prompt_cache_key: str | None
    prompt_cache_options: Mapping[str, Any]
    prompt_cache_retention: Literal["in_memory", "24h"] | None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None
    safety_identifier: str | None
    seed: int | None
    service_tier: str | None
    stop: str | Sequence[str] | None
    store: bool | None
    stream_options: Mapping[str, Any] | None
    temperature: float | None
    tool_choice: Literal["none", "auto", "required"] | Mapping[str, Any]
    tools: Iterable[Any]
    top_logprobs: int | None
    top_p: float | None
    user: str
    verbosity: Literal["low", "medium", "high"] | None
    web_search_options: Mapping[str, Any]


class ResponseParams(CallOptions, total=False):
    """The parameters of responses, as in OpenAI's reference."""

    access_programs: Mapping[str, Any]
    background: bool | None
    background_options: Mapping[str, Any]
    context_management: Iterable[Mapping[str, Any]] | None
    conversation: str | Mapping[str, Any] | None
    image: Mapping[str, Any]
    include: Iterable[str] | None
    input: Required[Any]
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: Mapping[str, str] | None
    model: Required[str]
    moderation: Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    previous_response_id: str | None
    prompt: Mapping[str, Any] | None
    prompt_cache_key: str | None
    prompt_cache_options: Mapping[str, Any]
    prompt_cache_retention: Literal["in_memory", "24h"] | None
    reasoning: Mapping[str, Any] | None
    safety_identifier: str | None
    service_tier: str | None
    store: bool | None
    stream_options: Mapping[str, Any] | None
    temperature: float | None
    text: Mapping[str, Any]
    tool_choice: Literal["none", "auto", "required"] | Mapping[str, Any]
    tools: Iterable[Any]
    top_logprobs: int | None
    top_p: float | None
    truncation: Literal["auto", "disabled"] | None
    user: str


class FormattedParams(CompletionParams, total=False):
    """The parameters of ``create``, where the response format is JSON and not a type."""

    response_format: Mapping[str, Any]


if TYPE_CHECKING:  # generic TypedDicts need Python 3.11

    class ParseParams(CompletionParams, Generic[T], total=False):
        """The parameters of ``parse`` and ``stream``: the format may be a type."""

        response_format: type[T] | Mapping[str, Any] | None

    W = TypeVar("W", covariant=True)
    S = TypeVar("S", covariant=True)

    class CreateCompletion(Protocol[W, S]):
        """The signature of ``create``, which returns *W*, or *S* for a stream."""

        @overload
        def __call__(
            self, *, stream: Literal[False] | None = None, **params: Unpack[FormattedParams]
        ) -> W: ...
        @overload
        def __call__(self, *, stream: Literal[True], **params: Unpack[FormattedParams]) -> S: ...
        @overload
        def __call__(self, *, stream: bool | None, **params: Unpack[FormattedParams]) -> W | S: ...

    class CreateResponse(Protocol[W, S]):
        """The signature of ``create``, which returns *W*, or *S* for a stream."""

        @overload
        def __call__(
            self, *, stream: Literal[False] | None = None, **params: Unpack[ResponseParams]
        ) -> W: ...
        @overload
        def __call__(self, *, stream: Literal[True], **params: Unpack[ResponseParams]) -> S: ...
        @overload
        def __call__(self, *, stream: bool | None, **params: Unpack[ResponseParams]) -> W | S: ...
