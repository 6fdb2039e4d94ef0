"""``client.chat.completions``: an answer asked for, whole or as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from ..base import path_of
from ..events import ChatCompletionStreamEvent, EventReading
from ..models import ChatCompletion, ParsedChatCompletion
from ..objects import Object
from ..options import NOT_GIVEN, T, TimeoutLike, declared
from ..params import FormattedParams
from ..parsing import Parser
from ..reading import Reading, completion_of
from .exchange import AsyncExchange
from .resource import AsyncResource
from .stream import AsyncStream

if TYPE_CHECKING:
    from ..options import Unpack
    from ..params import CreateCompletion, ParseParams
    from .wrapped import AsyncRawCompletions, AsyncStreamedCompletions


class AsyncChatCompletionStream(AsyncStream[ChatCompletionStreamEvent[T]]):
    """The events of an answer, as they come.

    Raises what :class:`choreoai.AsyncStream` does, and LengthFinishReasonError and
    ContentFilterFinishReasonError, where an answer that is to be parsed ends so.
    """

    _reading: EventReading[T]

    async def __anext__(self) -> ChatCompletionStreamEvent[T]:
        events = self._reading.events
        while not events:
            chunk: Any = await super().__anext__()
            events.extend(self._reading.of(chunk))
        return events.popleft()

    @property
    def current_completion_snapshot(self) -> ChatCompletion:
        """The answer so far."""
        return self.partial

    async def get_final_completion(self) -> ParsedChatCompletion[T]:
        """Read to the end and return the whole answer, parsed."""
        return self._reading.parser.completion(await super().get_final_completion())


class AsyncCompletions(AsyncResource):
    """``client.chat.completions``."""

    if TYPE_CHECKING:
        with_raw_response: AsyncRawCompletions
        with_streaming_response: AsyncStreamedCompletions

    @declared(FormattedParams)
    async def _create(self, *, stream: bool | None = None, **params: Any) -> Any:
        """Ask *model* to answer *messages*.

        With *stream* a :class:`choreoai.AsyncStream`, returned as soon as the response head is
        there; without it the whole :class:`choreoai.ChatCompletion`.  *params* are those of
        :class:`choreoai.params.CompletionParams` (``temperature``, ``max_tokens``, ``n``,
        ``stop``, ``tools``, ``stream_options``, ...), and ``response_format``.

        Raises APIStatusError, APIConnectionError and APITimeoutError; ChoreoAIError when the
        arguments cannot be written as JSON, and TypeError for a parameter of another name.
        """
        return await self._carry(self._ask(stream, params))

    create: CreateCompletion[
        Coroutine[Any, Any, ChatCompletion], Coroutine[Any, Any, AsyncStream]
    ] = cast(Any, _create)

    @declared(FormattedParams)
    async def parse(self, **params: Unpack[ParseParams[T]]) -> ParsedChatCompletion[T]:
        """Ask for an answer in the form of *response_format*, a pydantic model or a dataclass.

        It stands in ``message.parsed``, and parsed arguments of strict tools (and of those of
        :func:`choreoai.pydantic_function_tool`) in ``function.parsed_arguments``.  Raises what
        :meth:`create` raises, LengthFinishReasonError, ContentFilterFinishReasonError, and
        pydantic's ValidationError.
        """
        completion: ParsedChatCompletion[T]
        completion = await self._carry(self._ask(False, params, parsed=True))
        return completion

    @declared(FormattedParams)
    @asynccontextmanager
    async def stream(
        self, **params: Unpack[ParseParams[T]]
    ) -> AsyncIterator[AsyncChatCompletionStream[T]]:
        """Ask for an answer as a stream of typed events, in an ``async with`` block.

        The arguments are those of :meth:`parse`; see :mod:`choreoai.events`.
        """
        exchange = self._ask(True, params, parsed=True)
        async with await AsyncChatCompletionStream[T](exchange)._open() as stream:
            yield stream

    async def resume(
        self, id: str, *, after: int = 0, timeout: TimeoutLike = NOT_GIVEN
    ) -> AsyncStream:
        """Return the resumable stream *id* from the event that follows number *after*.

        *id* is :attr:`choreoai.AsyncStream.id`, *after* its ``last_event_id``.  Raises what
        :meth:`create` raises; NotFoundError when the server has no such stream (any more).
        """
        headers = {"Last-Event-ID": str(after)}
        _, options = self._client._asked(
            {"timeout": timeout, "resumable": True, "extra_headers": headers}
        )
        path = path_of("/streams", id)
        reading = Reading(after=after)
        stream: AsyncStream
        stream = await self._carry(self._exchange("GET", path, options, reading=reading))
        return stream

    def _ask(
        self, stream: bool | None, params: Mapping[str, Any], parsed: bool = False
    ) -> AsyncExchange:
        """Return the exchange that asks for an answer, which is *parsed* or not."""
        body, options = self._client._asked(params, FormattedParams)
        messages = body["messages"]
        pieces = (str, bytes, Mapping, Object)  # those of one message would be sent
        if not isinstance(messages, Iterable) or isinstance(messages, pieces):
            raise TypeError("messages must be a list of messages")
        body["messages"] = list(messages)
        if isinstance(stream, bool):
            body["stream"] = stream
        if not parsed and isinstance(body.get("response_format"), type):
            raise TypeError("a type as response_format is for parse() and stream()")
        parser = Parser[Any](body, "response_format") if parsed else None
        if parser is not None and parser.schema is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": parser.schema}
        n = body.get("n")
        n = n if isinstance(n, int) and n > 0 else 1
        reading: Reading | None = None
        if stream:
            reading = Reading(n) if parser is None else EventReading(n, parser)

        def meaning(answer: bytes) -> ChatCompletion:
            completion = completion_of(answer, n)
            return completion if parser is None else parser.completion(completion)

        path = "/chat/completions"
        return self._exchange("POST", path, options, body, meaning, reading)
