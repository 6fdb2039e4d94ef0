"""``client.chat.completions.stream()``: a stream as typed events."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic

from ..events import ChatCompletionStreamEvent, Events
from ..models import ChatCompletion
from ..parsing import ParsedChatCompletion, Parser, T
from ..reading import Reading
from .exchange import Exchange
from .stream import Stream


class ChatCompletionStream(Generic[T]):
    """The events of an answer, as they come, in an ``with`` block.

    Entering it sends the request, leaving it closes the stream.  Raises what
    :class:`choreoai.Stream` does, and LengthFinishReasonError and
    ContentFilterFinishReasonError, where an answer that is to be parsed ends so.
    """

    _stream: Stream
    _events: Events[T]

    def __init__(self, exchange: Exchange, parser: Parser[T]) -> None:
        self._exchange = exchange
        self._parser = parser
        self._ready: deque[ChatCompletionStreamEvent[T]] = deque()

    def __enter__(self) -> ChatCompletionStream[T]:
        self._stream = Stream._open(self._exchange, Reading(self._exchange.n))
        self._events = Events(self._stream.fold, self._parser)
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def __iter__(self) -> Iterator[ChatCompletionStreamEvent[T]]:
        return self

    def __next__(self) -> ChatCompletionStreamEvent[T]:
        while not self._ready:
            self._ready.extend(self._events.of(self._stream.__next__()))
        return self._ready.popleft()

    @property
    def response(self) -> Stream:
        """What has the response's head: its ``status_code`` and its ``headers``."""
        return self._stream

    @property
    def current_completion_snapshot(self) -> ChatCompletion:
        """The answer so far."""
        return self._stream.partial

    def until_done(self) -> ChatCompletionStream[T]:
        """Read to the end."""
        for _ in self:
            pass
        return self

    def get_final_completion(self) -> ParsedChatCompletion[T]:
        """Read to the end and return the whole answer, parsed."""
        self.until_done()
        return self._parser.completion(self._stream.get_final_completion())

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()
