"""One thread that carries all that waits: streams, the server's connections and its listeners.

A stream mostly waits: a thread of its own would cost a change of threads for each frame.  So
what waits is a *load*, and one thread, the carrier's, asks each load when it is worthwhile:

* Its descriptor turned readable, or writable.  The poller tells.
* Its time has come: a heartbeat, a time-out, the end of a pause.  A heap of times tells; loads
  share those that are not soon, so that the heap is small and stays in the cache.  Frames put
  a load's time off without touching the heap: a load that is asked too early gets its new time.
* Somebody asks for it: :meth:`Carrier.call`, from any thread.

What may block never runs here.  A load without a descriptor and without a time has to be
waited for, so a worker does that and hands the load back once it can be polled.  A load is
either the carrier's or a worker's, never both, so it needs no lock.

Streams with something to say come first in each round; what *gives way* to them, connections
and requests that begin, has SHARE seconds of it: a storm of requests is spread over many rounds.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from ..chat.source import Lane
from .poller import EPOLL, IN, new_poller
from .workers import Workers

#: Seconds that the poller waits at most.
LONGEST = 60.0

#: Times that are more than SOON seconds away are shared, so many in a second.
SOON, SHARED = 1.0, 16

#: Seconds that a worker waits for a load before it looks whether the carrier can have it back.
PATIENCE = 0.25

#: Seconds of a round for what gives way to streams, if one step takes less.
SHARE = 0.0005


class Load:
    """Something that waits, for data mostly, or *steady*: a connection, or what listens for them.

    What is steady gives way to running streams, and keeps its descriptor until it ends.
    """

    # Members of each load and not of the class, where Python finds them ten times slower.
    def __init__(self, steady: bool = False) -> None:
        self.steady = steady
        #: Whether there is nothing more to carry.
        self.ended = False
        #: What moves most of what comes to the descriptor without :meth:`step`, until that.
        self.lane: Lane | None = None
        # The carrier's notes: the descriptor that it polls and for which events, when it will look
        # at the load (``time.monotonic()``), and whether a worker has it.
        self.descriptor: int | None = None
        self.polled = 0
        self.timer = math.inf
        self.away = False

    def fileno(self) -> int | None:
        """Return the file descriptor to poll, or None."""
        raise NotImplementedError

    @property
    def events(self) -> int:
        """What to poll for there, if it is steady."""
        return IN

    @property
    def due(self) -> float | None:
        """When to step although nothing came, ``time.monotonic()``; None: that may block.

        With a descriptor None means that there is no such time.
        """
        raise NotImplementedError

    def step(self, patience: float) -> None:
        """Move what there is, waiting at most *patience* seconds for it; never raises."""
        raise NotImplementedError

    def leave(self) -> None:
        """It has ended; called once, on the carrier's thread."""


class Carrier:
    """The thread, which calls :meth:`run`; *workers* run what may block."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        #: How long the last round took, in seconds: so late can a frame be.
        self.lag = 0.0
        self._poller = new_poller()
        #: By what is polled; None once nobody wants to hear of it.
        self._polled: dict[int, Load | None] = {}
        self._loads: dict[Load, None] = {}
        self._times: list[float] = []  # a heap
        self._alarms: dict[float, dict[Load, None]] = {}  # who is to be asked at each
        self._calls: deque[Callable[[], object]] = deque()
        self._waiting: dict[Load, None] = {}  # to be stepped when there is time, in this order
        self._put_off = False  # whether the last round had no time for them
        self._inside, self.waker = socket.socketpair()
        self._inside.setblocking(False)
        self.waker.setblocking(False)
        self._poller.register(self._inside.fileno(), IN)
        self._woken = self._stopped = False
        self._thread: threading.Thread | None = None

    # From any thread

    def start(self) -> None:
        """Run in a thread of its own, until :meth:`close`."""
        self._thread = threading.Thread(target=self.run, name="carrier", daemon=True)
        self._thread.start()

    @property
    def carried(self) -> int:
        """How many streams there are."""
        return sum(not load.steady for load in list(self._loads))

    def carry(self, load: Load) -> None:
        """Take *load* over, until it has ended."""
        self.call(functools.partial(self.take, load))

    def call(self, function: Callable[[], object]) -> None:
        """Run *function*, which must not block, on the carrier's thread."""
        self._calls.append(function)
        self._wake()

    def step_all(self) -> None:
        """Ask every load now: something concerns them all."""
        self.call(lambda: [*map(self.step, list(self._loads))])

    def stop(self) -> None:
        """Make :meth:`run` return; what is carried stays as it is."""
        self._stopped = True
        self._wake()

    def close(self) -> None:
        """Stop, wait for the thread's end, and free what the carrier holds."""
        self.stop()
        if self._thread is not None:
            self._thread.join(4 * PATIENCE)
        self.workers.close()
        for one in (self._poller, self._inside, self.waker):
            one.close()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            with contextlib.suppress(OSError):  # full: it wakes up anyway; closed: it is over
                self.waker.send(b"\0")

    # On the carrier's thread

    def run(self) -> None:
        """Carry until :meth:`stop`."""
        while not self._stopped:
            self._round()

    def _round(self) -> None:
        for _ in range(len(self._calls)):
            self._calls.popleft()()
        self._woken = False  # a call from here on wakes us: before looking a last time
        patience = 0.0
        if not (self._calls or self._waiting or self._stopped):
            due = self._times[0] if self._times else math.inf
            patience = max(0.0, min(due - time.monotonic(), LONGEST))
        ready = self._poller.poll(patience)
        self._woken = True  # we look again before we wait
        now = time.monotonic()
        moved: list[Load] = []
        for descriptor, _ in ready:
            load = self._polled.get(descriptor)
            if load is None:
                self._forget(descriptor)
            elif load.steady:
                self._waiting[load] = None
            else:
                lane = load.lane
                if lane is None or not lane.forward(now):
                    moved.append(load)
        for load in moved:
            self.step(load)
        if self._times and self._times[0] <= now:
            self._ring(now)
        if self._waiting:
            # Every other round at the least; lanes go first again if this one was long already.
            self._put_off = not self._put_off and time.monotonic() > now + SHARE
            limit = -1.0 if self._put_off else time.monotonic() + SHARE
            while self._waiting and time.monotonic() < limit:
                load = next(iter(self._waiting))
                del self._waiting[load]
                self.step(load)
        self.lag = time.monotonic() - now

    def take(self, load: Load) -> None:
        """Take *load* over and wait for what it waits for, until it has ended."""
        self._loads[load] = None
        self.settle(load)

    def give_time(self, load: Load) -> None:
        """Take *load* over and step it when running streams have moved on."""
        self._loads[load] = self._waiting[load] = None

    def step(self, load: Load) -> None:
        """Have *load* move what it has; nothing happens while a worker does that."""
        if not (load.away or load.ended):
            load.step(0.0)
            self.settle(load)

    def settle(self, load: Load) -> None:
        """Wait for what *load* waits for now."""
        if load.ended:
            self._watch(load, None)
            if load.timer < math.inf:
                del self._alarms[load.timer][load]
                load.timer = math.inf
            if load in self._loads:
                del self._loads[load]
                load.leave()
            return
        if load.lane is None or load.descriptor is None:  # a lane's connection is polled already
            self._watch(load, load.fileno())
        due = load.due
        if due is not None:
            self._set_timer(load, due)
        elif load.descriptor is None:
            load.away = True
            self.workers.submit(functools.partial(self._work, load))

    def _work(self, load: Load) -> None:
        """On a worker's thread: wait for *load* until it can be polled again."""
        load.step(PATIENCE)
        while not load.ended and load.fileno() is None and load.due is None:
            load.step(PATIENCE)
        self.call(functools.partial(self._back, load))

    def _back(self, load: Load) -> None:
        load.away = False
        if load.ended or (load.fileno() is None and load.due is None):
            self.settle(load)
        else:
            self.step(load)  # what happened meanwhile was told to nobody: its client may have gone

    def _watch(self, load: Load, descriptor: int | None) -> None:
        """Poll *descriptor*, and no other, for *load*."""
        before, events = load.descriptor, load.events if load.steady else IN
        descriptor = descriptor if events else None
        if load.steady and descriptor == before and events == load.polled:
            return
        # What a stream has closed can be another stream's descriptor by now.
        if before is not None and before != descriptor and self._polled.get(before) is load:
            self._polled[before] = None  # mostly an upstream's, who will be asked again
            if load.steady:
                self._forget(before, closing=load.ended)
        load.descriptor, load.polled = descriptor, events
        if descriptor is None:
            return
        # Poll it in place of whoever had it before and closed it without a word.  That may be
        # *load* itself: it is not enough that the number is the same.
        known = descriptor in self._polled
        self._polled[descriptor] = load
        try:
            (self._poller.modify if known else self._poller.register)(descriptor, events)
        except FileExistsError:
            self._poller.modify(descriptor, events)
        except FileNotFoundError:
            self._poller.register(descriptor, events)

    def _forget(self, descriptor: int, closing: bool = False) -> None:
        """Poll *descriptor* no more, unless it is our own, which has only woken us."""
        if descriptor == self._inside.fileno():
            with contextlib.suppress(BlockingIOError):
                self._inside.recv(4096)
            return
        self._polled.pop(descriptor, None)
        if not (closing and EPOLL):  # epoll itself takes note of what is closed
            with contextlib.suppress(OSError):  # closed: then nothing is polled any more
                self._poller.unregister(descriptor)

    def _set_timer(self, load: Load, due: float) -> None:
        if due >= load.timer:
            return
        if load.timer < math.inf:
            del self._alarms[load.timer][load]
        if due > time.monotonic() + SOON:
            due = math.ceil(due * SHARED) / SHARED
        load.timer = due
        if due not in self._alarms:
            self._alarms[due] = {}
            heapq.heappush(self._times, due)
        self._alarms[due][load] = None

    def _ring(self, now: float) -> None:
        """Step the loads whose time has come."""
        rung: list[Load] = []
        while self._times and self._times[0] <= now:
            rung += self._alarms.pop(heapq.heappop(self._times))
        for load in rung:
            load.timer = math.inf
        for load in rung:
            due = math.inf if load.away or load.ended else load.due
            if due is not None and due <= now:
                self.step(load)
            elif due is not None:
                self._set_timer(load, due)
