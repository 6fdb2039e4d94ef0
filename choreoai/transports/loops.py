"""Waiting for a socket on asyncio's, uvloop's or trio's event loop.

A waiter needs only one thing of the loop: to call an attempt (receive, send, connect, TLS
handshake) each time the socket is ready, until it succeeds.  The loops' own streams are not used,
so a connection can be kept from one loop to the next.
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

    The attempt is made inside the loop's callback, which stays registered from one wait to the
    next.  The waiter is itself the future that its task awaits (``asyncio.isfuture``) and wakes
    the task directly in that callback: this saves three system calls and two iterations of the
    loop for each read.  All waits share one timer; when it fires too early, it is set again.
    """

    _asyncio_future_blocking = False
    _attempt: Attempt[Any]
    _deadline: float

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._watched: str | None = None
        self._timer_due = inf
        self._timer: asyncio.TimerHandle | None = None
        self._wake_task: partial[object] | None = None  # set while the task waits
        self._value: Any = None
        self._error: BaseException | None = None

    def perform(self, attempt: Attempt[T], write: bool, deadline: float) -> Awaitable[T]:
        """Return an awaitable of ``attempt(sock)``, repeated until it does not raise NOT_READY.

        It is tried each time the socket is readable (or writable, with *write*).  Awaiting it
        raises the attempt's error, and Stalled at *deadline* (of ``time.monotonic``).
        """
        self._attempt, self._deadline = attempt, deadline
        self._watch("writer" if write else "reader")
        if deadline < self._timer_due:
            self._set_timer()
        return self

    def __await__(self) -> Generator[Any, None, Any]:
        self._asyncio_future_blocking = True
        yield self
        value, self._value = self._value, None
        return value

    def add_done_callback(self, wake: Callable[..., object], *, context: Context) -> None:
        self._wake_task = partial(context.run, wake, self)

    def result(self) -> None:
        """Raise the error of the attempt, if any; the task calls this when it is woken."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def cancel(self, msg: object = None) -> bool:
        """Wake the task with CancelledError, by ``call_soon``: another task is running now."""
        wake, self._wake_task = self._wake_task, None
        if wake is not None:
            self._error = asyncio.CancelledError(*() if msg is None else (msg,))
            self._loop.call_soon(wake)
        return wake is not None

    def _wake(self) -> None:
        wake, self._wake_task = self._wake_task, None
        assert wake is not None
        wake()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = self._deadline
        delay = min(max(0.0, self._timer_due - time.monotonic()), _LONGEST_TIMER)
        self._timer = self._loop.call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer_due = inf
        if self._wake_task is None:
            return
        if time.monotonic() < self._deadline:
            self._set_timer()
        else:
            self._error = Stalled()
            self._wake()

    def _on_ready(self) -> None:
        if self._wake_task is None:
            self._watch(None)  # no task waits: the bytes stay in the socket
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
        if wanted is not None:  # on Windows this needs asyncio.SelectorEventLoop
            getattr(self._loop, f"add_{wanted}")(self.sock, self._on_ready)

    def release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._loop.is_closed():
            self._watch(None)

    def drop(self) -> None:
        if threading.get_ident() != self._thread and not self.inherited:  # called by a finaliser
            self.shut_down()
            # The descriptor must not be closed and reused before the loop stops watching it.
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(super().drop)
                return
        super().drop()


class TrioWaiter(BaseWaiter):
    """Waits on trio's loop, with the methods of :class:`AsyncioWaiter`."""

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


Waiter = Union[AsyncioWaiter, TrioWaiter]


def on_trio() -> Any:
    """Return the module trio if it runs the current task, else None."""
    trio = sys.modules.get("trio")
    return trio if trio is not None and trio.lowlevel.in_trio_run() else None


def new_waiter(sock: socket.socket) -> Waiter:
    """Return a waiter for *sock* on the loop that runs the current task."""
    return TrioWaiter(sock) if on_trio() else AsyncioWaiter(sock)
