"""Generated from the types of openai 3.57.0 by `make sync`."""

from __future__ import annotations

from typing import Any

from ..objects import Object, ParsedText, ResponseText
from ..options import T


class ResponsePart(Object):
    """A part of a message or of reasoning: output_text, refusal, summary_text ..."""

    _extensions = frozenset(("parsed",))
    type: str
    text: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    parsed: Any = None


class ResponseItem(Object):
    """An output item: message, reasoning, function_call, custom_tool_call ..."""

    _extensions = frozenset(("parsed_arguments",))
    id: str
    type: str
    status: str | None = None
    role: str | None = None
    content: list[ResponsePart]
    summary: list[ResponsePart]
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    encrypted_content: str | None = None
    parsed_arguments: Any = None


class ResponseFailure(Object):
    """The error of a failed response, or the *reason* of an incomplete one."""

    code: str | None = None
    message: str | None = None
    reason: str | None = None


class InputTokensDetails(Object):
    """The numbers of input tokens by kind."""

    cache_write_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens_details: Any = None


class OutputTokensDetails(Object):
    """The numbers of output tokens by kind."""

    reasoning_tokens: int | None = None


class ResponseUsage(Object):
    """The numbers of tokens of a response."""

    input_tokens: int
    input_tokens_details: InputTokensDetails | None = None
    output_tokens: int
    output_tokens_details: OutputTokensDetails | None = None
    total_tokens: int | None = None


class Response(ResponseText):
    """A response, whole or so far: see its *status*."""

    id: str
    access_programs: Any = None
    created_at: float | None = None
    error: ResponseFailure | None = None
    incomplete_details: ResponseFailure | None = None
    instructions: Any = None
    metadata: dict[str, str] | None = None
    model: str
    object: str | None = None
    output: list[ResponseItem]
    parallel_tool_calls: bool | None = None
    temperature: float | None = None
    tool_choice: Any = None
    tools: list[Any] | None = None
    top_p: float | None = None
    background: bool | None = None
    completed_at: float | None = None
    conversation: Any = None
    image: Any = None
    input_transformations: list[Any] | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    moderation: Any = None
    previous_response_id: str | None = None
    prompt: Any = None
    prompt_cache_diagnostics: Any = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: str | None = None
    reasoning: Any = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    status: str
    text: Any = None
    tool_usage: Any = None
    top_logprobs: int | None = None
    truncation: str | None = None
    usage: ResponseUsage | None = None
    user: str | None = None


class ParsedResponse(Response, ParsedText[T]):
    """A response whose texts were parsed."""


class ResponseEvent(Object):
    """An event of a response's stream; its members depend on the *type*."""

    type: str
    sequence_number: int
    response: Response | None = None
    item: ResponseItem | None = None
    part: ResponsePart | None = None
    delta: str | None = None
    text: str | None = None
    arguments: str | None = None
    output_index: int | None = None
