# Made from the table in models.py by `make sync`.
from typing import Any, Generic, Literal

from .objects import Listing, Object, ParsedText, ResponseText
from .params import T

TABLE: str

class Function(Object):
    "The function of a call; *arguments* is JSON text, *parsed_arguments* what it says."

    arguments: str | None
    name: str | None
    parsed_arguments: Any

class ToolCall(Object):
    "A tool call."

    id: str | None
    function: Function
    type: str | None

class ChunkToolCall(Object):
    "A piece of a tool call; *index* tells of which."

    index: int | None
    id: str | None
    function: Function
    type: str | None

class URLCitation(Object):
    "Where a web page is cited: from *start_index* to *end_index* of the text."

    end_index: int | None
    start_index: int | None
    title: str | None
    url: str | None

class Annotation(Object):
    "A remark on the text."

    type: str | None
    url_citation: URLCitation | None

class Audio(Object):
    "What the model said aloud; *data* is base64."

    id: str | None
    data: str | None
    expires_at: int | None
    transcript: str | None

class Message(Object):
    "What the model said."

    content: str | None
    refusal: str | None
    role: str | None
    annotations: list[Annotation] | None
    audio: Audio | None
    function_call: Function | None
    tool_calls: list[ToolCall] | None
    reasoning_content: str | None

class Delta(Object):
    "A piece of a message."

    audio: Audio | None
    content: str | None
    function_call: Function | None
    refusal: str | None
    role: str | None
    tool_calls: list[ChunkToolCall] | None
    annotations: list[Annotation] | None
    reasoning_content: str | None

class PromptTokensDetails(Object):
    "What kinds of tokens were read."

    audio_tokens: int | None
    cache_write_tokens: int | None
    cached_tokens: int | None
    image_tokens: int | None
    text_tokens: int | None

class CompletionTokensDetails(Object):
    "What kinds of tokens were written."

    accepted_prediction_tokens: int | None
    audio_tokens: int | None
    reasoning_tokens: int | None
    rejected_prediction_tokens: int | None
    text_tokens: int | None

class Usage(Object):
    "How many tokens the call read and wrote."

    completion_tokens: int | None
    prompt_tokens: int | None
    total_tokens: int | None
    completion_tokens_details: CompletionTokensDetails | None
    prompt_tokens_details: PromptTokensDetails | None

class TopLogprob(Object):
    "A token that could have stood there, and the logarithm of its probability."

    token: str | None
    bytes: list[int] | None
    logprob: float | None

class TokenLogprob(TopLogprob):
    "A token of the answer, and those that were most probable in its place."

    top_logprobs: list[TopLogprob] | None

class Logprobs(Object):
    "The tokens of a choice with their probabilities."

    content: list[TokenLogprob] | None
    refusal: list[TokenLogprob] | None

class Choice(Object):
    "One of the *n* answers."

    finish_reason: str | None
    index: int
    logprobs: Logprobs | None
    message: Message

class ChunkChoice(Object):
    "A piece of one of the *n* answers."

    delta: Delta
    index: int
    finish_reason: str | None
    logprobs: Logprobs | None

class ChatCompletion(Object):
    "A whole answer."

    id: str | None
    choices: list[Choice]
    created: int | None
    model: str | None
    object: str | None
    metadata: dict[str, str] | None
    moderation: Any
    service_tier: str | None
    system_fingerprint: str | None
    usage: Usage | None

class ChatCompletionChunk(Object):
    "A piece of a streamed answer; the last may have no choices but the usage."

    id: str | None
    choices: list[ChunkChoice]
    created: int | None
    model: str | None
    object: str | None
    moderation: Any
    obfuscation: str | None
    service_tier: str | None
    system_fingerprint: str | None
    usage: Usage | None

class ParsedMessage(Message, Generic[T]):
    "A message; *parsed* is its content, None for a refusal."

    parsed: T | None

class ParsedChoice(Choice, Generic[T]):
    "One of the answers, parsed."

    message: ParsedMessage[T]

class ParsedChatCompletion(ChatCompletion, Generic[T]):
    "A whole answer, parsed."

    choices: list[ParsedChoice[T]]  # type: ignore[assignment]

class Model(Object):
    "A model that can be asked for by its *id*."

    id: str | None
    created: int | None
    object: str | None
    owned_by: str | None
    shutdown_date: str | None

class ModelList(Listing):
    "The models of a server; iterating goes through *data*."

    data: list[Model]
    object: str | None

class ResponsePart(Object):
    "A part of a message or a reasoning: output_text, refusal, summary_text ..."

    type: str
    text: str | None
    refusal: str | None
    annotations: list[Any] | None
    parsed: Any

class ResponseItem(Object):
    "An output item: message, reasoning, function_call, custom_tool_call ..."

    id: str
    type: str
    status: str | None
    role: str | None
    content: list[ResponsePart]
    summary: list[ResponsePart]
    call_id: str | None
    name: str | None
    arguments: str | None
    input: str | None
    encrypted_content: str | None
    parsed_arguments: Any

class ResponseFailure(Object):
    "Why a response failed, or stayed incomplete (*reason*)."

    code: str | None
    message: str | None
    reason: str | None

class ResponseUsage(Object):
    "The tokens of a response."

    input_tokens: int
    input_tokens_details: PromptTokensDetails | None
    output_tokens: int
    output_tokens_details: CompletionTokensDetails | None
    total_tokens: int

class Response(ResponseText):
    "A response, whole or as far as it came; *status* tells."

    id: str
    created_at: float | None
    error: ResponseFailure | None
    incomplete_details: ResponseFailure | None
    instructions: Any
    metadata: Any
    model: str
    object: str | None
    output: list[ResponseItem]
    parallel_tool_calls: bool | None
    temperature: float | None
    tool_choice: Any
    tools: Any
    top_p: float | None
    background: bool | None
    completed_at: float | None
    conversation: Any
    max_output_tokens: int | None
    max_tool_calls: int | None
    moderation: Any
    previous_response_id: str | None
    prompt: Any
    prompt_cache_key: str | None
    prompt_cache_retention: str | None
    reasoning: Any
    safety_identifier: str | None
    service_tier: str | None
    status: str
    text: Any
    top_logprobs: int | None
    truncation: str | None
    usage: ResponseUsage | None
    user: str | None

class ParsedResponse(Response, ParsedText[T]):
    "A response whose texts were parsed."

class ResponseEvent(Object):
    "An event of a response's stream; its members depend on the *type*."

    type: str
    sequence_number: int
    response: Response | None
    item: ResponseItem | None
    part: ResponsePart | None
    delta: str | None
    text: str | None
    arguments: str | None
    output_index: int | None

class TextDeltaEvent(Object):
    "Text came: *delta*.  *snapshot* is all of it, *parsed* that as JSON."

    type: Literal["content.delta", "refusal.delta"]
    delta: str
    snapshot: str
    parsed: Any

class ContentDoneEvent(Object, Generic[T]):
    "The text is complete."

    type: Literal["content.done"]
    content: str
    parsed: T | None

class RefusalDoneEvent(Object):
    "The refusal is complete."

    type: Literal["refusal.done"]
    refusal: str

class FunctionToolCallArgumentsEvent(Object):
    "A piece of a call's *arguments* came, or they are complete."

    type: Literal["tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"]
    name: str
    index: int
    arguments: str
    arguments_delta: str
    parsed_arguments: Any

class LogprobsEvent(Object):
    "Probabilities of tokens came, of text or of a refusal, or (*snapshot*) are complete."

    type: Literal[
        "logprobs.content.delta",
        "logprobs.content.done",
        "logprobs.refusal.delta",
        "logprobs.refusal.done",
    ]
    snapshot: list[TokenLogprob]
    content: list[TokenLogprob]
    refusal: list[TokenLogprob]
