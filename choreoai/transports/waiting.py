"""Waiting for a socket on the running event loop: asyncio's, uvloop's, or trio's.

The one thing that is asked of a loop is to try something each time a socket is ready, until
it works: receive, send, connect, shake hands.  No loop's own streams are used, so a
connection can be kept from one loop to the next.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, Union

from .base import Cancelled, Stalled, receive_some

T = TypeVar("T")
Attempt = Callable[[socket.socket], T]


class AsyncioWaiter:
    """Waits on an asyncio loop.

    The attempt is made inside the loop's callback, and the callback stays registered
    from one wait to the next: for a stream that saves two system calls and a turn of the
    loop for each read.  One timer serves all waits: it is set again when it goes off early.
    """

    def __init__(self, sock: socket.socket | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._sock = sock
        self._fd = -1 if sock is None else sock.fileno()
        self._future: asyncio.Future[Any] | None = None
        self._attempt: Attempt[Any] = receive_some
        self._reading = self._writing = False
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: float | None = None

    def perform(
        self, attempt: Attempt[T], write: bool, deadline: float | None
    ) -> asyncio.Future[T]:
        """Await ``attempt(sock)``, made as soon as the socket lets it come to an end.

        It is tried when the socket is readable (or writable, with *write*).  Raises what
        it raises, Cancelled, and Stalled at *deadline* (of ``time.monotonic``).
        """
        self._attempt = attempt
        self._watch(write)
        return self._begin(deadline)

    async def pause(self, seconds: float) -> None:
        """Wait; raises Cancelled."""
        with suppress(Stalled):
            await self._begin(time.monotonic() + seconds)

    async def lookup(self, host: str, port: int, deadline: float | None) -> list[Any]:
        """Return what ``socket.getaddrinfo`` does.  Raises Stalled at *deadline*."""
        # A thousand streams that begin at once ask once, not a thousand threads.
        key = (self._loop, host, port)
        task = _lookups.get(key)
        if task is None:
            found = self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            task = _lookups[key] = asyncio.ensure_future(found)
            task.add_done_callback(lambda done: _forget(key, done))
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            return list(await asyncio.wait_for(asyncio.shield(task), left))
        except asyncio.TimeoutError:
            raise Stalled from None

    def _begin(self, deadline: float | None) -> asyncio.Future[Any]:
        """Return what the waiting task awaits: no coroutine, which would cost each read more."""
        future = self._future = self._loop.create_future()
        self._deadline = deadline
        if deadline is not None and (self._timer is None or deadline < self._due):
            self._set_timer(deadline)
        return future

    def _end(self) -> asyncio.Future[Any] | None:
        """Return what is still awaited, to be ended; nothing is awaited from now on."""
        future, self._future = self._future, None
        if self._writing:
            self._unwatch()
        return None if future is None or future.done() else future

    def _set_timer(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._future is None or self._future.done() or self._deadline is None:
            return
        if time.monotonic() < self._deadline:
            self._set_timer(self._deadline)
        elif (future := self._end()) is not None:
            future.set_exception(Stalled())

    def _ready(self) -> None:
        if self._future is None or self._future.done() or self._sock is None:
            self._unwatch()  # nobody takes what comes: it stays in the socket
            return
        try:
            result = self._attempt(self._sock)
        except BlockingIOError:
            pass
        except ssl.SSLWantReadError:
            self._watch(write=False)
        except ssl.SSLWantWriteError:
            self._watch(write=True)
        except Exception as error:
            if (future := self._end()) is not None:
                future.set_exception(error)
        else:
            if (future := self._end()) is not None:
                future.set_result(result)

    def _watch(self, write: bool) -> None:
        if self._writing if write else self._reading:
            return
        self._unwatch()
        try:
            (self._loop.add_writer if write else self._loop.add_reader)(self._fd, self._ready)
        except NotImplementedError:
            message = "this event loop cannot watch sockets; asyncio.SelectorEventLoop can"
            raise RuntimeError(message) from None
        self._writing, self._reading = write, not write

    def _unwatch(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
        self._reading = self._writing = False

    def interrupt(self) -> None:
        """Have the task that waits get Cancelled."""
        if (future := self._end()) is not None:
            future.set_exception(Cancelled())

    def close(self, sock: socket.socket | None = None) -> None:
        """Stop watching, and close *sock* if it is given; from any thread."""
        if threading.get_ident() != self._thread:  # a finaliser's
            # The descriptor must not become another's before the loop has forgotten it.
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._close, sock)
                return
        self._close(sock)

    def _close(self, sock: socket.socket | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._loop.is_closed():
            self._unwatch()
        if sock is not None:
            sock.close()


_lookups: dict[tuple[Any, str, int], asyncio.Future[Any]] = {}


def _forget(key: tuple[Any, str, int], done: asyncio.Future[Any]) -> None:
    _lookups.pop(key, None)
    if not done.cancelled():
        done.exception()  # seen, also when all who asked have gone


class TrioWaiter:
    """Waits on trio's loop; the methods are those of :class:`AsyncioWaiter`."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        import trio

        self._trio = trio
        self._sock = sock
        self._scope: Any = None
        self._interrupted = False

    async def perform(self, attempt: Attempt[T], write: bool, deadline: float | None) -> T:
        wait_readable = self._trio.lowlevel.wait_readable
        wait_writable = self._trio.lowlevel.wait_writable
        sock = self._sock
        assert sock is not None
        with self._limit(deadline):
            while True:
                await (wait_writable if write else wait_readable)(sock)
                try:
                    return attempt(sock)
                except BlockingIOError:
                    pass
                except ssl.SSLWantReadError:
                    write = False
                except ssl.SSLWantWriteError:
                    write = True
        raise self._why()

    async def pause(self, seconds: float) -> None:
        with self._limit(None):
            await self._trio.sleep(seconds)
        if self._interrupted:
            raise Cancelled

    async def lookup(self, host: str, port: int, deadline: float | None) -> list[Any]:
        with self._limit(deadline):
            limiter = _trio_limiter(self._trio)  # two threads, however many streams begin
            return await self._trio.to_thread.run_sync(
                lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
                limiter=limiter,
                abandon_on_cancel=True,
            )
        raise self._why()

    def _limit(self, deadline: float | None) -> Any:
        seconds = float("inf") if deadline is None else max(0.0, deadline - time.monotonic())
        self._scope = self._trio.move_on_after(seconds)
        return self._scope

    def _why(self) -> Exception:
        return Cancelled() if self._interrupted else Stalled()

    def interrupt(self) -> None:
        self._interrupted = True
        if self._scope is not None:
            self._scope.cancel()

    def close(self, sock: socket.socket | None = None) -> None:
        self._scope = None
        if sock is not None:
            sock.close()


def _trio_limiter(trio: Any) -> Any:
    """Return the limiter of look-ups of the current ``trio.run``."""
    global _limiters
    _limiters = _limiters or trio.lowlevel.RunVar("choreoai look-ups")
    try:
        return _limiters.get()
    except LookupError:
        limiter = trio.CapacityLimiter(2)
        _limiters.set(limiter)
        return limiter


_limiters: Any = None


#: Who waits for one socket (or for none, in ``pause``), on behalf of one task at a time.
Waiter = Union[AsyncioWaiter, TrioWaiter]


def waiter(sock: socket.socket | None = None) -> Waiter:
    """Return who waits for *sock* on the loop that runs the current task."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        return TrioWaiter(sock)
    return AsyncioWaiter(sock)
