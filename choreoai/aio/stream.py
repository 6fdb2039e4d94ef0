"""The stream that a caller iterates over; a resumable one reconnects after a cut.

The exchange receives bytes, ``records()`` decodes them, and the :class:`choreoai.reading.Reading`
turns each record into a chunk, an error or the end.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic

from choreo_wsgi.sse import Decoder

from ..answered import Answered
from ..base import backoff, path_of, retry_delay
from ..errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    NotFoundError,
    StreamInterruptedError,
)
from ..folding import Fold
from ..models import ChatCompletion, ChatCompletionChunk
from ..reading import Reading, Record, records
from ..transports.base import Cancelled
from .exchange import AsyncExchange

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    #: The type of the stream's items.
    E = TypeVar("E", default=ChatCompletionChunk)
else:
    from typing import TypeVar

    E = TypeVar("E")  # Python 3.13 has defaults

S = TypeVar("S", bound="AsyncStream[Any]")

# Reconnections in a row that bring nothing new; with the backoff they take about half a minute.
_MAX_RECONNECTS = 9
# Seconds to wait for the last bytes of a body, so that its connection can be used again.
_LAST_BYTES_TIMEOUT = 0.1

_DOCUMENTS = (b"{", b"[", b"<")  # first bytes of JSON and HTML, but of no stream of events


class AsyncStream(Answered, Generic[E]):
    """The chunks of an answer, as they are received.

    Iterate over it once.  It closes itself at the end, on an error, on leaving a ``with`` block
    and when it is garbage-collected.  Closing it early makes the server stop generating, except
    for a resumable stream: only :meth:`cancel` stops that one.

    Iterating raises StreamInterruptedError if the answer is cut, APIError if the server reports
    an error in it, and APITimeoutError.  It ends without an error only at the true end of the
    answer, or after :meth:`close`.  An exception of a signal handler is raised unchanged, except
    StopIteration, which would look like the answer's end and becomes a StreamInterruptedError.
    Only one task or thread may read at a time: a second one gets a RuntimeError.
    """

    _exchange: AsyncExchange
    _reading: Reading

    def __init__(self, exchange: AsyncExchange) -> None:
        super().__init__(exchange)
        self._reading = exchange.reading or Reading()
        self._records: deque[Record] = deque()
        self._closed = False
        self._busy = threading.Lock()
        self._over: str | None = None  # the reason why no more records are received
        self._after = self._last = self._reading.after  # the number of the last event received
        self._begun = False  # a record was received: from now on the idle limit applies
        self._failures = 0
        self._decoder: Decoder | None = None  # set when the body has begun

    async def _open(self: S) -> S:
        """Send the request; return this stream when the answer's head is received.

        Raises the errors of ``AsyncExchange.open``, and APIError if the answer is not a stream.
        """
        await self._exchange.open()
        if "json" in (kind := self.headers.get("content-type", "").lower()) or "html" in kind:
            await self._fill()  # raises for a document; the type of a stream may be wrong
        return self

    def __aiter__(self) -> AsyncIterator[E]:
        return self

    async def __anext__(self) -> E:
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("another task or thread is already reading the stream")
        chunk: Any = None
        try:
            if self._records or await self._fill():
                chunk = self._reading.take(self._records.popleft())
                if chunk is None:
                    # Only now: chunks received with the end marker must not wait for more bytes.
                    with suppress(APIConnectionError, Cancelled):
                        await self._exchange.receive(time.monotonic() + _LAST_BYTES_TIMEOUT)
        except BaseException as error:
            if not (self._closed and isinstance(error, Cancelled)):
                replaced = self._error_to_raise(error)
                if isinstance(replaced, APIError):
                    replaced.request = self._exchange.request
                await self.close()
                if replaced is error:
                    raise
                raise replaced from None
        finally:
            if chunk is None:
                self._exchange.close()
            self._busy.release()
        if chunk is None:
            raise StopAsyncIteration
        return chunk  # type: ignore[no-any-return]

    async def _fill(self) -> bool:
        """Receive until there is a record; return False at the end of the stream.

        Raises APITimeoutError, StreamInterruptedError and Cancelled.
        """
        if self._reading.failure is not None:
            raise self._reading.failure
        if self._reading.ended or self._closed:
            return False
        deadline = self._exchange.deadline(self._begun)
        while self._over is None:
            why = "the connection was closed before the end of the answer"
            try:
                block = await self._exchange.receive(deadline)
            except APITimeoutError:
                raise
            except APIConnectionError as error:
                block, why = b"", str(error)
            if not block:
                await self._reconnect_or_end(why)
                deadline = self._exchange.deadline(self._begun)
            elif self._decoder is None and block.lstrip()[:1] in _DOCUMENTS:
                raise await self._exchange.refusal_error(block)
            elif self._add_records(block):
                return True
        self._reading.cut(self._over)
        return False

    def _add_records(self, block: bytes) -> bool:
        """Add the records that *block* completes; return whether there are any."""
        self._decoder = self._decoder or Decoder(errors="strict")
        new = records(self._decoder, block)
        # A resumed stream may repeat frames.  In other streams ids are not the events' numbers.
        if self._after or (self._exchange.options.resumable and self.id is not None):
            new = [record for record in new if record[0] is None or record[0] > self._last]
        if new:
            self._begun = True
            self._failures = 0
            self._last = new[-1][0] or self._last
            if not isinstance(new[-1][1], dict):
                self._over = "the stream has ended"
            self._records.extend(new)
        return bool(new)

    async def _reconnect_or_end(self, why: str) -> None:
        """Reconnect a resumable stream after its connection ended; else set ``_over`` to *why*."""
        if not self._exchange.options.resumable or self.id is None:
            self._over = why
            return None
        self._decoder = None
        while True:
            if self._failures == _MAX_RECONNECTS:
                raise StreamInterruptedError(f"{why}; reconnecting did not help")
            if self._failures:
                await self._exchange.pause(backoff(self._failures, first=0.1))
            self._failures += 1
            try:
                return await self._exchange.resume(self.id, self._last)
            except (APIConnectionError, APIStatusError) as error:
                if retry_delay(error, 0, time.time()) is None:
                    message = f"{why}, and the stream cannot be resumed: {error}"
                    code, kind = error.code, error.type
                    raise StreamInterruptedError(message, code=code, type=kind) from error

    def _error_to_raise(self, error: BaseException) -> BaseException:
        """Return the exception to raise for *error*, caught while reading."""
        reading = self._reading
        if reading.ended or error is reading.failure:
            return error
        if isinstance(error, APIError):
            return reading.fail(error)
        # An exception of a signal handler, or a task's cancellation.
        why = f"reading was interrupted by {type(error).__name__}"
        failure = reading.fail(StreamInterruptedError(why))
        # A StopIteration raised from here would look like the answer's end.
        return failure if isinstance(error, StopIteration) else error

    @property
    def response(self) -> AsyncStream[E]:
        """This stream itself, which has the answer's ``status_code`` and ``headers``."""
        return self

    @property
    def id(self) -> str | None:
        """The server's id of a resumable stream; None for any other."""
        return self._exchange.headers.get("choreo-stream-id")

    @property
    def last_event_id(self) -> int | None:
        """The number of the last event handed out, None if the events have no numbers."""
        return self._reading.last_event_id

    @property
    def fold(self) -> Fold:
        """The merged chunks so far."""
        return self._reading.fold

    @property
    def partial_text(self) -> str:
        """The text of the first choice so far."""
        return self._reading.fold.text()

    @property
    def partial(self) -> ChatCompletion:
        """The answer so far, with all choices; the unfinished ones have no finish_reason."""
        return self._reading.fold.completion()

    @property
    def text(self) -> AsyncIterator[str]:
        """The pieces of the first choice's text; chunks without choices are skipped."""
        return _AsyncText(self)

    async def get_final_completion(self) -> ChatCompletion:
        """Read the rest of the stream and return the whole answer as one completion.

        Raises the errors of iterating, and StreamInterruptedError after an early close.
        """
        await self.until_done()
        return self.partial

    async def until_done(self: S) -> S:
        """Read to the end; raises the errors of :meth:`get_final_completion`."""
        async for _ in self:
            pass
        if not self._reading.ended:
            raise self._reading.fail(StreamInterruptedError("the stream was closed before its end"))
        return self

    async def close(self) -> None:
        """Close the connection; idempotent, and allowed while another task or thread reads."""
        self._closed = True
        self._records.clear()
        if self._over is None:  # else there is nothing to stop, and the connection can be reused
            self._exchange.cancel()
        # A reading task or thread was woken by that, and closes the connection itself.
        if self._busy.acquire(blocking=False):
            self._exchange.close()
            self._busy.release()

    async def cancel(self) -> None:
        """Close the stream and stop the server from generating, also for a resumable stream."""
        await self.close()
        if self.id is not None:
            client = self._exchange.client
            path, options = path_of("/streams", self.id), client._body_and_options({})[1]
            with suppress(NotFoundError):  # it has ended and expired
                await AsyncExchange(client, "DELETE", path, options).fetch()

    async def __aenter__(self: S) -> S:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def __del__(self) -> None:
        self._exchange.close()


class _AsyncText:
    # Not a generator: an abandoned async generator is finalised by the loop some time later, which
    # would keep the stream open until then; trio also warns about it.
    def __init__(self, stream: AsyncStream[Any]) -> None:
        self._stream = stream

    def __aiter__(self) -> _AsyncText:
        return self

    async def __anext__(self) -> str:
        while True:
            # The base class's method: a subclass may return events instead of chunks.
            chunk: Any = await AsyncStream.__anext__(self._stream)
            pieces = (choice.delta.content or "" for choice in chunk.choices if choice.index == 0)
            if text := "".join(pieces):
                return text
