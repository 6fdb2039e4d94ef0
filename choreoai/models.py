"""The API's objects, named and ordered as in OpenAI's reference, and the events of ``stream()``.

They are a table.  A block is a class: its name, the classes that it goes on from, and what it
is; then its members with their types.  One that is absent is None, but one whose type has a
``!`` is always there, empty if need be, so that reading through it is safe.  Those with a ``+``
are not in OpenAI's schema, and in no dump when they are absent.

For type checkers and editors ``make sync`` writes the same as ``models.pyi``.
"""

from __future__ import annotations

from .objects import make_classes

TABLE = """
Function: The function of a call; *arguments* is JSON text, *parsed_arguments* what it says.
    arguments name: str
    parsed_arguments: +Any

ToolCall: A tool call.
    id: str
    function: Function!
    type: str

ChunkToolCall: A piece of a tool call; *index* tells of which.
    index: int
    id: str
    function: Function!
    type: str

URLCitation: Where a web page is cited: from *start_index* to *end_index* of the text.
    end_index start_index: int
    title url: str

Annotation: A remark on the text.
    type: str
    url_citation: URLCitation

Audio: What the model said aloud; *data* is base64.
    id data: str
    expires_at: int
    transcript: str

Message: What the model said.
    content refusal role: str
    annotations: list[Annotation]
    audio: Audio
    function_call: Function
    tool_calls: list[ToolCall]
    reasoning_content: +str

Delta: A piece of a message.
    audio: Audio
    content: str
    function_call: Function
    refusal role: str
    tool_calls: list[ChunkToolCall]
    annotations: +list[Annotation]
    reasoning_content: +str

PromptTokensDetails: What kinds of tokens were read.
    audio_tokens cache_write_tokens cached_tokens image_tokens text_tokens: int

CompletionTokensDetails: What kinds of tokens were written.
    accepted_prediction_tokens audio_tokens reasoning_tokens: int
    rejected_prediction_tokens text_tokens: int

Usage: How many tokens the call read and wrote.
    completion_tokens prompt_tokens total_tokens: int
    completion_tokens_details: CompletionTokensDetails
    prompt_tokens_details: PromptTokensDetails

TopLogprob: A token that could have stood there, and the logarithm of its probability.
    token: str
    bytes: list[int]
    logprob: float

TokenLogprob(TopLogprob): A token of the answer, and those that were most probable in its place.
    top_logprobs: list[TopLogprob]

Logprobs: The tokens of a choice with their probabilities.
    content refusal: list[TokenLogprob]

Choice: One of the *n* answers.
    finish_reason: str
    index: int!
    logprobs: Logprobs
    message: Message!

ChunkChoice: A piece of one of the *n* answers.
    delta: Delta!
    index: int!
    finish_reason: str
    logprobs: Logprobs

ChatCompletion: A whole answer.
    id: str
    choices: list[Choice]!
    created: int
    model object: str
    metadata: dict[str, str]
    moderation: Any
    service_tier system_fingerprint: str
    usage: Usage

ChatCompletionChunk: A piece of a streamed answer; the last may have no choices but the usage.
    id: str
    choices: list[ChunkChoice]!
    created: int
    model object: str
    moderation: Any
    obfuscation service_tier system_fingerprint: str
    usage: Usage

ParsedMessage(Message, Generic[T]): A message; *parsed* is its content, None for a refusal.
    parsed: T

ParsedChoice(Choice, Generic[T]): One of the answers, parsed.
    message: ParsedMessage[T]!

ParsedChatCompletion(ChatCompletion, Generic[T]): A whole answer, parsed.
    choices: list[ParsedChoice[T]]!

Model: A model that can be asked for by its *id*.
    id: str
    created: int
    object owned_by shutdown_date: str

ModelList(Listing): The models of a server; iterating goes through *data*.
    data: list[Model]!
    object: str

ResponsePart: A part of a message or a reasoning: output_text, refusal, summary_text ...
    type: str!
    text refusal: str
    annotations: list[Any]
    parsed: +Any

ResponseItem: An output item: message, reasoning, function_call, custom_tool_call ...
    id type: str!
    status role: str
    content summary: list[ResponsePart]!
    call_id name arguments input encrypted_content: str
    parsed_arguments: +Any

ResponseFailure: Why a response failed, or stayed incomplete (*reason*).
    code message reason: str

ResponseUsage: The tokens of a response.
    input_tokens: int!
    input_tokens_details: PromptTokensDetails
    output_tokens: int!
    output_tokens_details: CompletionTokensDetails
    total_tokens: int!

Response(ResponseText): A response, whole or as far as it came; *status* tells.
    id: str!
    created_at: float
    error incomplete_details: ResponseFailure
    instructions metadata: Any
    model: str!
    object: str
    output: list[ResponseItem]!
    parallel_tool_calls: bool
    temperature: float
    tool_choice tools: Any
    top_p: float
    background: bool
    completed_at: float
    conversation: Any
    max_output_tokens max_tool_calls: int
    moderation: Any
    previous_response_id: str
    prompt: Any
    prompt_cache_key prompt_cache_retention: str
    reasoning: Any
    safety_identifier service_tier: str
    status: str!
    text: Any
    top_logprobs: int
    truncation: str
    usage: ResponseUsage
    user: str

ParsedResponse(Response, ParsedText[T]): A response whose texts were parsed.

ResponseEvent: An event of a response's stream; its members depend on the *type*.
    type: str!
    sequence_number: int!
    response: Response
    item: ResponseItem
    part: ResponsePart
    delta text arguments: str
    output_index: int

TextDeltaEvent: Text came: *delta*.  *snapshot* is all of it, *parsed* that as JSON.
    type: Literal["content.delta", "refusal.delta"]!
    delta snapshot: str!
    parsed: Any

ContentDoneEvent(Object, Generic[T]): The text is complete.
    type: Literal["content.done"]!
    content: str!
    parsed: T

RefusalDoneEvent: The refusal is complete.
    type: Literal["refusal.done"]!
    refusal: str!

FunctionToolCallArgumentsEvent: A piece of a call's *arguments* came, or they are complete.
    type: Literal["tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"]!
    name: str!
    index: int!
    arguments arguments_delta: str!
    parsed_arguments: Any

LogprobsEvent: Probabilities of tokens came, of text or of a refusal, or (*snapshot*) are complete.
    type: Literal["logprobs.content.delta", "logprobs.content.done", \
"logprobs.refusal.delta", "logprobs.refusal.done"]!
    snapshot content refusal: list[TokenLogprob]!
"""

make_classes(TABLE, globals())
