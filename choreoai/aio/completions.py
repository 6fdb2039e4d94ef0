"""``client.chat.completions``: an answer asked for, whole or as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from requests import PreparedRequest

from ..base import stream_headers, stream_path
from ..errors import NotFoundError
from ..events import EventReading
from ..models import ChatCompletion
from ..params import NOT_GIVEN, CompletionParams, Create, FormattedParams, TimeoutLike, declared
from ..parsing import ParsedChatCompletion, Parser, T
from ..policy import Options
from ..reading import Reading, completion_of
from .event_stream import AsyncChatCompletionStream
from .exchange import AsyncExchange
from .raw import AsyncRawResponse, AsyncStreamedResponse
from .stream import AsyncStream

if TYPE_CHECKING:
    from ..params import Unpack
    from .client import AsyncChoreoAI


class AsyncCompletions:
    """``client.chat.completions``."""

    def __init__(self, client: AsyncChoreoAI) -> None:
        self._client = client
        #: The same methods; they return the answer's head and body beside its meaning.
        self.with_raw_response = AsyncRawCompletions(self)
        #: The same methods; the body is read as it comes.
        self.with_streaming_response = AsyncStreamedCompletions(self)

    async def _create(self, *, stream: bool | None = None, **params: Any) -> Any:
        """Ask *model* to answer *messages*.

        With *stream* a :class:`choreoai.AsyncStream`, returned as soon as the response head is
        there; without it the whole :class:`choreoai.ChatCompletion`.  *params* are those of
        :class:`choreoai.params.CompletionParams` (``temperature``, ``max_tokens``, ``n``,
        ``stop``, ``tools``, ``stream_options``, ...), and ``response_format``.

        Raises APIStatusError, APIConnectionError and APITimeoutError; ChoreoAIError when the
        arguments cannot be written as JSON, and TypeError for a parameter of another name.
        """
        return (await self.with_raw_response._create(stream=stream, **params)).parse()

    create: Create[Coroutine[Any, Any, ChatCompletion], Coroutine[Any, Any, AsyncStream]] = (
        declared(cast(Any, _create))
    )

    @declared
    async def parse(
        self,
        *,
        response_format: type[T] | Mapping[str, Any] | None = None,
        **params: Unpack[CompletionParams],
    ) -> ParsedChatCompletion[T]:
        """Ask for an answer in the form of *response_format*, a pydantic model or a dataclass.

        It stands in ``message.parsed``, and parsed arguments of strict tools (and of those of
        :func:`choreoai.pydantic_function_tool`) in ``function.parsed_arguments``.  Raises what
        :meth:`create` raises, LengthFinishReasonError, ContentFilterFinishReasonError, and
        pydantic's ValidationError.
        """
        raw = self.with_raw_response
        return (await raw.parse(response_format=response_format, **params)).parse()

    @declared
    @asynccontextmanager
    async def stream(
        self,
        *,
        response_format: type[T] | Mapping[str, Any] | None = None,
        **params: Unpack[CompletionParams],
    ) -> AsyncIterator[AsyncChatCompletionStream[T]]:
        """Ask for an answer as a stream of typed events, in an ``async with`` block.

        The arguments are those of :meth:`parse`; see :mod:`choreoai.events`.
        """
        parser = Parser[T](response_format, params)
        exchange = self._ask(True, parser.params)
        reading = EventReading(exchange.n, parser)
        async with await AsyncChatCompletionStream[T](exchange, reading)._open() as stream:
            yield stream

    async def resume(
        self, id: str, *, after: int = 0, timeout: TimeoutLike = NOT_GIVEN
    ) -> AsyncStream:
        """Return the resumable stream *id* from the event that follows number *after*.

        *id* is :attr:`choreoai.AsyncStream.id`, *after* its ``last_event_id``.  Raises what
        :meth:`create` raises; NotFoundError when the server has no such stream (any more).
        """
        _, options = self._client._asked({"timeout": timeout})
        request, resume = self._resuming(options, id, after), partial(self._resuming, options)
        pool, stop = self._client._transport, self._delete
        exchange = AsyncExchange(pool, request, options, resume=resume, stop=stop)
        return await AsyncStream(exchange, Reading(), after)._open()

    def _ask(self, stream: bool | None, params: Mapping[str, Any]) -> AsyncExchange:
        """Return the exchange that asks for an answer, to be carried out."""
        body, options = self._client._asked(params, FormattedParams)
        if isinstance(body["messages"], (str, bytes, Mapping)):  # whose pieces would be sent
            raise TypeError("messages must be a list of messages")
        body["messages"] = list(body["messages"])
        sent, n, resume = options, body.get("n"), None
        if stream is not None:
            body["stream"] = stream
        if stream:
            sent = replace(options, headers=stream_headers(options))
            resume = partial(self._resuming, options) if options.resumable else None
        return self._client._call(
            "POST",
            "/chat/completions",
            body,
            sent,
            n=n if isinstance(n, int) and n > 0 else 1,
            resume=resume,
            stop=self._delete,
        )

    def _resuming(self, options: Options, stream_id: str, after: int) -> PreparedRequest:
        """Return the request for what follows event *after* of a stream."""
        headers = {**options.headers, "Accept": "text/event-stream", "Last-Event-ID": str(after)}
        sent = replace(options, headers=headers)
        return self._client._request("GET", stream_path(stream_id), None, sent)

    async def _delete(self, stream_id: str) -> None:
        with suppress(NotFoundError):  # it is over and forgotten
            path = stream_path(stream_id)
            await self._client._call("DELETE", path, None, self._client._asked({})[1]).fetch()


class AsyncRawCompletions:
    """``client.chat.completions.with_raw_response``."""

    def __init__(self, completions: AsyncCompletions) -> None:
        self._completions = completions

    async def _create(self, *, stream: bool | None = None, **params: Any) -> AsyncRawResponse[Any]:
        """Do as ``create``, and return the answer's head beside what it returns."""
        exchange = self._completions._ask(stream, params)
        if not stream:
            return await AsyncRawResponse.fetch(
                exchange, lambda body: completion_of(body, exchange.n)
            )
        opened = await AsyncStream(exchange, Reading(exchange.n))._open()
        return AsyncRawResponse(exchange, b"", lambda _: opened)

    create: Create[
        Coroutine[Any, Any, AsyncRawResponse[ChatCompletion]],
        Coroutine[Any, Any, AsyncRawResponse[AsyncStream]],
    ] = declared(cast(Any, _create))

    @declared
    async def parse(
        self,
        *,
        response_format: type[T] | Mapping[str, Any] | None = None,
        **params: Unpack[CompletionParams],
    ) -> AsyncRawResponse[ParsedChatCompletion[T]]:
        """Do as ``parse``, and return the answer's head beside what it returns."""
        parser = Parser[T](response_format, params)
        exchange = self._completions._ask(False, parser.params)
        return await AsyncRawResponse.fetch(
            exchange, lambda body: parser.completion(completion_of(body, exchange.n))
        )


class AsyncStreamedCompletions:
    """``client.chat.completions.with_streaming_response``."""

    def __init__(self, completions: AsyncCompletions) -> None:
        self._completions = completions

    def _create(self, *, stream: bool | None = None, **params: Any) -> AsyncStreamedResponse[Any]:
        """Return the answer to what ``create`` would send, to be entered with ``async with``."""
        return AsyncStreamedResponse(self._completions._ask(stream, params), bool(stream))

    create: Create[AsyncStreamedResponse[ChatCompletion], AsyncStreamedResponse[AsyncStream]] = (
        declared(cast(Any, _create))
    )
