"""Streams that mostly wait, carried by one thread instead of a thread each.

A stream begins on a worker's thread.  When it has nothing to send for now, it parks: the
worker goes back to its pool, and the carrier's thread polls what the stream reads from and
moves what comes to the client.  Two system calls and no change of threads is all that a frame
costs then.  A stream that would hold up the others goes back to a worker: its end, a lot of
bytes at once, or a client that does not take them.

The request stays in its channel's ``requests`` all the while, so for waitress it is running.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

#: Seconds between two looks at a stream that nothing comes for: its client may have left.
TICK = 0.25

#: From this many bytes on, a worker sends them and what follows: it takes what comes in large
#: blocks, and sends while others read.
MANY = 4 * 1024

#: Seconds for which a stream on a worker's thread waits for more before it parks.
PATIENCE = 0.005


class Parkable(Protocol):
    """A response body that can be asked without waiting for it."""

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""

    def ready(self, timeout: float = 0.0) -> bytes:
        """Return what is to be sent; with 0 at once, if there is a :meth:`fileno`."""

    def fileno(self) -> int | None:
        """Return the file descriptor to poll, or None: it must be waited for."""

    def __next__(self) -> bytes:
        """Wait for what is to be sent next."""

    def close(self) -> None:
        """Give everything back."""


class Parked(BaseException):
    """Leaves waitress's *task*, and its worker, without an end to the answer."""

    task: Any = None

    def __init__(self, turn: Turn) -> None:
        super().__init__()
        self.turn = turn


class Turn:
    """The response body *stream* while it is on a worker's thread.

    Raises Parked when the stream waits for something that can be polled.
    """

    def __init__(self, stream: Parkable) -> None:
        self.stream = stream
        self.parked = False

    def __iter__(self) -> Turn:
        return self

    def __next__(self) -> bytes:
        stream = self.stream
        if stream.fileno() is None:
            return next(stream)
        block = stream.ready(PATIENCE)
        if block:
            return block
        if stream.ended or stream.fileno() is None:
            return next(stream)
        self.parked = True
        raise Parked(self)

    def close(self) -> None:
        """Close the stream, unless it goes on elsewhere."""
        if not self.parked:
            self.stream.close()


def takes_turns(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Return *application* with its streams as :class:`Turn`."""

    def call(environ: Any, start_response: Any) -> Iterable[bytes]:
        body: Any = application(environ, start_response)
        return Turn(body) if hasattr(body, "ready") and hasattr(body, "fileno") else body

    return call


class _Load:
    """A parked stream: its channel, the task that it was parked in, and its last news."""

    __slots__ = ("channel", "gone", "moved", "stream", "task")

    def __init__(self, channel: Any, task: Any) -> None:
        self.channel = channel
        self.task = task
        self.stream: Parkable = task.turn.stream
        self.moved = time.monotonic()
        self.gone = False  # back to a worker


class Carrier:
    """The thread; *resume* is given each channel whose request a worker shall go on with.

    ``works`` is whether this system has what it takes; without, streams keep their workers.
    """

    works = hasattr(select, "epoll")

    def __init__(self, resume: Callable[[Any], None]) -> None:
        self._resume = resume
        self._epoll = select.epoll()
        self._loads: dict[int, _Load] = {}
        self._displaced: deque[_Load] = deque()
        self._lock = threading.Lock()  # _loads and _epoll say the same
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="carrier", daemon=True)
        self._thread.start()

    def park(self, channel: Any, task: Any) -> None:
        """Go on with *task*'s stream; called by the worker that leaves it."""
        load = _Load(channel, task)
        descriptor = load.stream.fileno()
        if descriptor is None:
            self._resume(channel)
            return
        with self._lock:
            # The descriptor of a stream that has just ended can already be another stream's.
            if descriptor in self._loads:
                self._displaced.append(self._loads[descriptor])
            self._loads[descriptor] = load
            try:
                self._epoll.register(descriptor, select.EPOLLIN)
            except FileExistsError:
                self._epoll.modify(descriptor, select.EPOLLIN)

    def close(self) -> None:
        """End the thread; what is parked stays where it is."""
        self._stopped = True
        self._thread.join()
        self._epoll.close()

    def _run(self) -> None:
        look = time.monotonic() + TICK
        while not self._stopped:
            self._carry_what_is_ready()
            now = time.monotonic()
            if now >= look:
                look = now + TICK
                self._look(now)

    def _carry_what_is_ready(self) -> None:
        for descriptor, _ in self._epoll.poll(TICK):
            load = self._loads.get(descriptor)
            if load is None:
                self._forget(descriptor, None)
            else:
                self._carry(descriptor, load)

    def _look(self, now: float) -> None:
        """Ask the streams that nothing came for."""
        for descriptor, load in list(self._loads.items()):
            if now - load.moved >= TICK:
                self._carry(descriptor, load)
        while self._displaced:
            self._give_back(self._displaced.popleft())

    def _carry(self, descriptor: int, load: _Load) -> None:
        """Move what is there; give the stream back if there is more to it."""
        try:
            stays = self._move(load) and not load.stream.ended
        except Exception as error:
            load.task.failure = error  # the worker's to raise
            stays = False
        if not stays:
            self._forget(descriptor, load)
            self._give_back(load)

    def _move(self, load: _Load) -> bool:
        """Send what there is; return whether that was all."""
        block = load.stream.ready()
        if not block:
            return True
        load.moved = time.monotonic()
        if len(block) < MANY:
            # A stream that must be waited for, as in a burst, is a worker's.
            return bool(load.task.send_now(block)) and load.stream.fileno() is not None
        load.task.block = block
        return False

    def _forget(self, descriptor: int, load: _Load | None) -> None:
        with self._lock:
            if self._loads.get(descriptor) is load:
                self._loads.pop(descriptor, None)
                with contextlib.suppress(OSError):  # closed, and so forgotten by itself
                    self._epoll.unregister(descriptor)

    def _give_back(self, load: _Load) -> None:
        if not load.gone:
            load.gone = True
            self._resume(load.channel)
