"""The stream of the async client: a thread reads, the event loop takes.

The thread hands over what one read brought and reads on only when that was taken, so that
a slow consumer slows the server down and nothing piles up.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TypeVar

from .background import Job
from .exchange import Cancelled
from .feed import Feed
from .models import ChatCompletion, ChatCompletionChunk
from .reading import Record
from .stream import BaseStream, first_text

__all__ = ["AsyncStream", "in_thread"]

T = TypeVar("T")


async def in_thread(work: Callable[[], T], cancel: Callable[[], None]) -> T:
    """Return ``work()``, done in a thread; when the task is cancelled, *cancel* is called."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    job = Job(work, cancel)

    def report() -> None:
        if not _call_soon(loop, _wake, done):
            job.abandon()

    job.start(report)
    try:
        await done
    except BaseException:
        job.abandon()
        raise
    return job.result()


def _call_soon(
    loop: asyncio.AbstractEventLoop,
    callback: Callable[[asyncio.Future[None]], None],
    future: asyncio.Future[None],
) -> bool:
    """Have *loop* call back; return False if it was closed meanwhile."""
    try:
        loop.call_soon_threadsafe(callback, future)
    except RuntimeError:
        return False
    return True


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class _Channel:
    """From a feed's thread to an event loop, one batch of records at a time."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._room = threading.Semaphore(1)
        self._batch: list[Record] | None = None
        self._error: BaseException | None = None
        self._over = False
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Let the thread begin."""
        threading.Thread(target=self._main, daemon=True).start()

    def _main(self) -> None:
        """Read until the end, an error, or :meth:`close`; in the thread."""
        try:
            while True:
                self._room.acquire()
                if self._closed:
                    break
                batch = self._feed.read()
                self._put(batch, None)
                if not batch:
                    break
        except BaseException as error:
            self._put(None, error)
        finally:
            self._feed.close()

    def _put(self, batch: list[Record] | None, error: BaseException | None) -> None:
        with self._lock:
            self._batch = batch
            self._error = error
            self._over = not batch
            waiter, self._waiter = self._waiter, None
        if waiter is not None and not _call_soon(self._loop, _wake, waiter):
            self.close()

    async def get(self) -> list[Record]:
        """Return the next records, none at the end; raises what ``feed.read`` raises."""
        with self._lock:
            waiter = None
            if self._batch is None and not self._over:
                waiter = self._waiter = self._loop.create_future()
        if waiter is not None:
            await waiter
        with self._lock:
            batch, self._batch = self._batch, None
            error = self._error
        if error is not None:
            raise error
        self._room.release()
        return batch or []

    def close(self) -> None:
        """Close the connection; the thread ends soon after.  Does not block."""
        self._closed = True
        self._feed.cancel()
        self._room.release()
        with self._lock:
            waiter, self._waiter = self._waiter, None
            self._over = True
        if waiter is not None:
            _call_soon(self._loop, _wake, waiter)


class _Text:
    # Not an async generator: one that is dropped is finished by the loop some time later,
    # and would keep the stream open until then.
    def __init__(self, stream: AsyncStream) -> None:
        self._stream = stream

    def __aiter__(self) -> _Text:
        return self

    async def __anext__(self) -> str:
        while True:
            text = first_text(await self._stream.__anext__())
            if text:
                return text


class AsyncStream(BaseStream):
    """The chunks of an answer, as they come: :class:`choreoai.Stream` for ``async for``.

    Cancelling the task that reads closes the connection at once.
    """

    def __init__(
        self, feed: Feed, n: int = 1, stop: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        super().__init__(feed, n)
        self._stop = stop
        self._channel = _Channel(feed)
        self._channel.start()

    def __aiter__(self) -> AsyncIterator[ChatCompletionChunk]:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        try:
            if not self._ready and not await self._fill():
                raise StopAsyncIteration
            chunk = self._reading.take(self._ready.popleft())
            if chunk is None:
                await self._channel.get()
                self._let_go()
                raise StopAsyncIteration
            return chunk
        except StopAsyncIteration:
            raise
        except BaseException as error:
            replaced = self._explain(error)
            self._let_go()
            if replaced is error:
                raise
            raise replaced from None

    async def _fill(self) -> bool:
        """Get the next records; return False when there are no more."""
        if self._over():
            return False
        try:
            self._ready.extend(await self._channel.get())
        except Cancelled:
            if not self._closed:
                raise
            return False
        if self._ready:
            return True
        if not self._closed:
            self._reading.cut(self._feed.over or "")
        self._let_go()
        return False

    @property
    def text(self) -> AsyncIterator[str]:
        """The pieces of the first choice's text; chunks without choices are passed over."""
        return _Text(self)

    async def get_final_completion(self) -> ChatCompletion:
        """Read to the end and return the whole answer as one completion.

        Raises what iterating raises, and StreamInterruptedError after an early close.
        """
        async for _ in self:
            pass
        return self._whole()

    def _let_go(self) -> None:
        self._closed = True
        self._ready.clear()
        self._channel.close()

    async def close(self) -> None:
        """Close the connection, as often as wanted."""
        self._let_go()

    async def cancel(self) -> None:
        """Close the stream and have the server stop generating, resumable or not."""
        self._let_go()
        if self._stop is not None:
            await self._stop()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._let_go()

    def __del__(self) -> None:
        if hasattr(self, "_channel"):
            self._channel.close()
