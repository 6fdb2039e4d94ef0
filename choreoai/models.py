"""The API's objects, named and ordered as in OpenAI's reference."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from typing import Any, Generic

from .objects import Object
from .params import T


class Function(Object):
    """The function that a tool call names; *arguments* is JSON text, or a piece of it.

    *parsed_arguments* is what ``parse()`` made of them, where the tool was strict or a model.
    """

    arguments: str | None = None
    name: str | None = None
    parsed_arguments: Any = None

    _ours = frozenset(("parsed_arguments",))


class ToolCall(Object):
    """A tool call; in a stream a piece of one, and *index* tells which."""

    id: str | None = None
    function: Function
    type: str | None = None


class ChunkToolCall(ToolCall):
    """A piece of a tool call; *index* tells of which."""

    index: int | None = None


class URLCitation(Object):
    """Where a web page is cited: from *start_index* to *end_index* of the text."""

    end_index: int | None = None
    start_index: int | None = None
    title: str | None = None
    url: str | None = None


class Annotation(Object):
    """A remark on the text."""

    type: str | None = None
    url_citation: URLCitation | None = None


class Audio(Object):
    """What the model said aloud; *data* is base64."""

    id: str | None = None
    data: str | None = None
    expires_at: int | None = None
    transcript: str | None = None


class Message(Object):
    """What the model said."""

    content: str | None = None
    refusal: str | None = None
    role: str | None = None
    annotations: list[Annotation] | None = None
    audio: Audio | None = None
    function_call: Function | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning_content: str | None = None

    _ours = frozenset(("reasoning_content",))


class Delta(Message):
    """A piece of a message."""

    tool_calls: list[ChunkToolCall] | None = None  # type: ignore[assignment]

    _ours = frozenset(("annotations", "reasoning_content"))


class PromptTokensDetails(Object):
    """What kinds of tokens were read."""

    audio_tokens: int | None = None
    cache_write_tokens: int | None = None
    cached_tokens: int | None = None
    image_tokens: int | None = None
    text_tokens: int | None = None


class CompletionTokensDetails(Object):
    """What kinds of tokens were written."""

    accepted_prediction_tokens: int | None = None
    audio_tokens: int | None = None
    reasoning_tokens: int | None = None
    rejected_prediction_tokens: int | None = None
    text_tokens: int | None = None


class Usage(Object):
    """How many tokens the call read and wrote."""

    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    total_tokens: int | None = None
    completion_tokens_details: CompletionTokensDetails | None = None
    prompt_tokens_details: PromptTokensDetails | None = None


class TopLogprob(Object):
    """A token that could have stood there, and the logarithm of its probability."""

    token: str | None = None
    bytes: list[int] | None = None
    logprob: float | None = None


class TokenLogprob(TopLogprob):
    """A token of the answer, and those that were most probable in its place."""

    top_logprobs: list[TopLogprob] | None = None


class Logprobs(Object):
    """The tokens of a choice with their probabilities."""

    content: list[TokenLogprob] | None = None
    refusal: list[TokenLogprob] | None = None


class Choice(Object):
    """One of the *n* answers."""

    finish_reason: str | None = None
    index: int = 0
    logprobs: Logprobs | None = None
    message: Message


class ChunkChoice(Object):
    """A piece of one of the *n* answers."""

    delta: Delta
    index: int = 0
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class _Answer(Object):
    id: str | None = None
    choices: list[Any]
    created: int | None = None
    model: str | None = None
    object: str | None = None
    moderation: Any = None
    service_tier: str | None = None
    system_fingerprint: str | None = None
    usage: Usage | None = None


class ChatCompletion(_Answer):
    """A whole answer."""

    choices: list[Choice]
    metadata: dict[str, str] | None = None


class ChatCompletionChunk(_Answer):
    """A piece of a streamed answer; the last one may have no choices but the usage."""

    choices: list[ChunkChoice]
    obfuscation: str | None = None


class Model(Object):
    """A model that can be asked for by its *id*."""

    id: str | None = None
    created: int | None = None
    object: str | None = None
    owned_by: str | None = None
    shutdown_date: str | None = None


class ModelList(Object):
    """The models of a server; iterating goes through *data*, ``async for`` too."""

    data: list[Model]
    object: str | None = None

    def __iter__(self) -> Iterator[Model]:
        return iter(self.data)

    async def __aiter__(self) -> AsyncIterator[Model]:
        for model in self.data:
            yield model

    def __len__(self) -> int:
        return len(self.data)

    def has_next_page(self) -> bool:
        """Return False: a server's models come at once."""
        return False


class AsyncListing:
    """The models of a server, to be awaited or iterated over."""

    def __init__(self, asked: Coroutine[Any, Any, ModelList]) -> None:
        self._asked = asked

    def __await__(self) -> Generator[Any, Any, ModelList]:
        return self._asked.__await__()

    async def __aiter__(self) -> AsyncIterator[Model]:
        for model in await self:
            yield model


class ResponsePart(Object):
    """A part of a message or of a reasoning: ``output_text``, ``refusal``, ``summary_text`` ..."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    parsed: Any = None

    _ours = frozenset(("parsed",))


class ResponseItem(Object):
    """An output item: ``message``, ``reasoning``, ``function_call``, ``custom_tool_call`` ..."""

    id: str = ""
    type: str = ""
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

    _ours = frozenset(("parsed_arguments",))


class ResponseFailure(Object):
    """Why a response failed, or stayed incomplete (*reason*)."""

    code: str | None = None
    message: str | None = None
    reason: str | None = None


class ResponseUsage(Object):
    """The tokens of a response."""

    input_tokens: int = 0
    input_tokens_details: PromptTokensDetails | None = None
    output_tokens: int = 0
    output_tokens_details: CompletionTokensDetails | None = None
    total_tokens: int = 0


class Response(Object):
    """A response, whole or as far as it came; *status* tells."""

    id: str = ""
    model: str = ""
    status: str = ""
    error: ResponseFailure | None = None
    incomplete_details: ResponseFailure | None = None
    output: list[ResponseItem]
    usage: ResponseUsage | None = None
    previous_response_id: str | None = None

    @property
    def output_text(self) -> str:
        """The text of all messages."""
        return "".join(part.text or "" for part in self._texts())

    def _texts(self) -> list[ResponsePart]:
        messages = (item for item in self.output if item.type == "message")
        return [part for item in messages for part in item.content if part.type == "output_text"]


class ParsedResponse(Response, Generic[T]):
    """A response whose text was parsed."""

    @property
    def output_parsed(self) -> T | None:
        """The first text as what was asked for, None for a refusal."""
        return next((part.parsed for part in self._texts() if part.parsed is not None), None)


class ResponseEvent(Object):
    """An event of a response's stream; which members there are depends on its *type*."""

    type: str = ""
    sequence_number: int = 0
    response: Response | None = None
    item: ResponseItem | None = None
    part: ResponsePart | None = None
    delta: str | None = None
    text: str | None = None
    arguments: str | None = None
    output_index: int | None = None
