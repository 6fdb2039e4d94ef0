"""How one waits for a socket on asyncio's, uvloop's or trio's loop.

The one thing that is asked of a loop is to try something each time a socket is ready, until it
works: receive, send, connect, shake hands.  No loop's own streams are used, so a connection can be
kept from one loop to the next.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from contextvars import Context
from functools import partial
from math import inf
from typing import Any, Union

from .base import NOT_READY, Attempt, BaseWaiter, Stalled, T, wants_to_write

_LONGEST_TIMER = 86400.0  # seconds


class AsyncioWaiter(BaseWaiter):
    """Waits on an asyncio loop.

    The attempt is made inside the loop's callback, and the callback stays registered from one wait
    to the next.  The waiter is itself the future that its task waits for (``asyncio.isfuture``),
    and wakes the task in that callback: for a stream that saves three system calls and two turns of
    the loop for each read.  One timer serves all waits: it is set again when it goes off early.
    """

    _asyncio_future_blocking = False
    _attempt: Attempt[Any]
    _deadline: float

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._watched: str | None = None
        self._due = inf
        self._timer: asyncio.TimerHandle | None = None
        self._waking: partial[object] | None = None  # there while the task waits
        self._value: Any = None
        self._error: BaseException | None = None

    def perform(self, attempt: Attempt[T], write: bool, deadline: float) -> Awaitable[T]:
        """Await ``attempt(sock)``, made as soon as the socket lets it come to an end.

        It is tried when the socket is readable (or writable, with *write*).  Raises what
        it raises, and Stalled at *deadline* (of ``time.monotonic``).
        """
        self._attempt, self._deadline = attempt, deadline
        self._watch("writer" if write else "reader")
        if deadline < self._due:
            self._set_timer()
        return self

    def __await__(self) -> Generator[Any, None, Any]:
        self._asyncio_future_blocking = True
        yield self
        value, self._value = self._value, None
        return value

    def add_done_callback(self, wake: Callable[..., object], *, context: Context) -> None:
        self._waking = partial(context.run, wake, self)

    def result(self) -> None:
        """Raise what the attempt has raised: the task asks for it when it is woken."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def cancel(self, msg: object = None) -> bool:
        """Have the task woken with CancelledError, in a turn of its own: another one runs now."""
        waking, self._waking = self._waking, None
        if waking is not None:
            self._error = asyncio.CancelledError(*() if msg is None else (msg,))
            self._loop.call_soon(waking)
        return waking is not None

    def _wake(self) -> None:
        waking, self._waking = self._waking, None
        assert waking is not None
        waking()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = self._deadline
        left = min(max(0.0, self._due - time.monotonic()), _LONGEST_TIMER)
        self._timer = self._loop.call_later(left, self._ring)

    def _ring(self) -> None:
        self._due = inf
        if self._waking is None:
            return
        if time.monotonic() < self._deadline:
            self._set_timer()
        else:
            self._error = Stalled()
            self._wake()

    def _ready(self) -> None:
        if self._waking is None:
            self._watch(None)  # nobody takes what comes: it stays in the socket
            return
        try:
            self._value = self._attempt(self.sock)
        except NOT_READY as error:
            write = wants_to_write(error, self._watched == "writer")
            self._watch("writer" if write else "reader")
            return
        except Exception as error:
            self._error = error
        self._wake()

    def _watch(self, wanted: str | None) -> None:
        if wanted == self._watched:
            return
        if self._watched is not None:
            getattr(self._loop, f"remove_{self._watched}")(self.sock)
        self._watched = wanted
        if wanted is not None:  # Windows needs asyncio.SelectorEventLoop for it
            getattr(self._loop, f"add_{wanted}")(self.sock, self._ready)

    def release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._loop.is_closed():
            self._watch(None)

    def drop(self) -> None:
        if threading.get_ident() != self._thread and not self.inherited:  # a finaliser's
            self.shut_down()
            # The descriptor must not become another's before the loop has forgotten it.
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(super().drop)
                return
        super().drop()


class TrioWaiter(BaseWaiter):
    """Waits on trio's loop; the methods are those of :class:`AsyncioWaiter`."""

    async def perform(self, attempt: Attempt[T], write: bool, deadline: float) -> T:
        trio = sys.modules["trio"]
        with trio.move_on_after(max(0.0, deadline - time.monotonic())):
            while True:
                ready = trio.lowlevel.wait_writable if write else trio.lowlevel.wait_readable
                await ready(self.sock)
                try:
                    return attempt(self.sock)
                except NOT_READY as error:
                    write = wants_to_write(error, write)
        raise Stalled


#: Who waits for one socket.
Waiter = Union[AsyncioWaiter, TrioWaiter]


def on_trio() -> Any:
    """Return the module trio if that runs the current task."""
    trio = sys.modules.get("trio")
    return trio if trio is not None and trio.lowlevel.in_trio_run() else None


def waiter(sock: socket.socket) -> Waiter:
    """Return who waits for *sock* on the loop that runs the current task."""
    return TrioWaiter(sock) if on_trio() else AsyncioWaiter(sock)
