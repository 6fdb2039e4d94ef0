"""``client.chat.completions.stream()``: a stream as typed events."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Generic

from ..events import ChatCompletionStreamEvent, Events
from ..models import ChatCompletion
from ..parsing import ParsedChatCompletion, Parser, T
from ..reading import Reading
from .exchange import AsyncExchange
from .stream import AsyncStream


class AsyncChatCompletionStream(Generic[T]):
    """The events of an answer, as they come, in an ``async with`` block.

    Entering it sends the request, leaving it closes the stream.  Raises what
    :class:`choreoai.AsyncStream` does, and LengthFinishReasonError and
    ContentFilterFinishReasonError, where an answer that is to be parsed ends so.
    """

    _stream: AsyncStream
    _events: Events[T]

    def __init__(self, exchange: AsyncExchange, parser: Parser[T]) -> None:
        self._exchange = exchange
        self._parser = parser
        self._ready: deque[ChatCompletionStreamEvent[T]] = deque()

    async def __aenter__(self) -> AsyncChatCompletionStream[T]:
        self._stream = await AsyncStream._open(self._exchange, Reading(self._exchange.n))
        self._events = Events(self._stream.fold, self._parser)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stream.close()

    def __aiter__(self) -> AsyncIterator[ChatCompletionStreamEvent[T]]:
        return self

    async def __anext__(self) -> ChatCompletionStreamEvent[T]:
        while not self._ready:
            self._ready.extend(self._events.of(await self._stream.__anext__()))
        return self._ready.popleft()

    @property
    def response(self) -> AsyncStream:
        """What has the response's head: its ``status_code`` and its ``headers``."""
        return self._stream

    @property
    def current_completion_snapshot(self) -> ChatCompletion:
        """The answer so far."""
        return self._stream.partial

    async def until_done(self) -> AsyncChatCompletionStream[T]:
        """Read to the end."""
        async for _ in self:
            pass
        return self

    async def get_final_completion(self) -> ParsedChatCompletion[T]:
        """Read to the end and return the whole answer, parsed."""
        await self.until_done()
        return self._parser.completion(await self._stream.get_final_completion())

    async def close(self) -> None:
        """Close the connection."""
        await self._stream.close()
