"""``client.chat.completions.stream()``: a stream as typed events."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Generic

from ..errors import ContentFilterFinishReasonError, LengthFinishReasonError
from ..events import ChatCompletionStreamEvent, Events
from ..models import ChatCompletion, ChatCompletionChunk
from ..parsing import ParsedChatCompletion, Parser, T
from .stream import AsyncStream


class AsyncChatCompletionStream(Generic[T]):
    """The events of an answer, as they come; raises what :class:`choreoai.AsyncStream` does.

    Also LengthFinishReasonError and ContentFilterFinishReasonError, where an answer that is to
    be parsed ends so.
    """

    def __init__(self, stream: AsyncStream, parser: Parser[T]) -> None:
        self._stream = stream
        self._parser = parser
        self._events = Events(stream.fold, parser)
        self._ready: deque[ChatCompletionStreamEvent[T]] = deque()

    def __aiter__(self) -> AsyncIterator[ChatCompletionStreamEvent[T]]:
        return self

    async def __anext__(self) -> ChatCompletionStreamEvent[T]:
        while not self._ready:
            chunk = await self._stream.__anext__()
            if self._parser.active:
                self._check(chunk)
            self._ready.extend(self._events.of(chunk))
        return self._ready.popleft()

    def _check(self, chunk: ChatCompletionChunk) -> None:
        for choice in chunk.choices:
            if choice.finish_reason == "length":
                raise LengthFinishReasonError(completion=self._stream.partial)
            if choice.finish_reason == "content_filter":
                raise ContentFilterFinishReasonError(completion=self._stream.partial)

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


class AsyncChatCompletionStreamManager(Generic[T]):
    """What ``stream()`` returns: entering it sends the request, leaving it closes the stream."""

    def __init__(self, begin: Callable[[], Awaitable[AsyncStream]], parser: Parser[T]) -> None:
        self._begin = begin
        self._parser = parser
        self._stream: AsyncStream | None = None

    async def __aenter__(self) -> AsyncChatCompletionStream[T]:
        self._stream = await self._begin()
        return AsyncChatCompletionStream(self._stream, self._parser)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._stream is not None:
            await self._stream.close()
