"""One thread that carries all streams that wait, to a client or only into the log.

A stream mostly waits: a thread of its own would cost a change of threads for each frame.  So
what waits is a *load*, and one thread, the carrier's, asks each load when it is worthwhile:

* Its descriptor turned readable.  The selector tells.
* Its time has come: a heartbeat, a time-out, the end of a pause.  A heap of times tells, with
  one entry for each load.  Frames put the time off without touching the heap: an entry that
  turns up too early is put back with the load's new time.
* Somebody asks for it: :meth:`Carrier.call`, from any thread.

What may block never runs here.  A load without a descriptor and without a time has to be
waited for, so a worker does that and hands the load back once it can be polled.  A load is
either the carrier's or a worker's, never both, so it needs no lock.

Streams with something to say come first in each round; all else has SHARE seconds of it.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import itertools
import logging
import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from ..chat.source import Lane
from .poller import IN, new_poller
from .workers import Workers

#: Seconds after which a load's time is looked at anew: sooner times leave that many behind.
LOOK = 5.0

#: Seconds that a worker waits for a load before it looks whether the carrier can have it back.
PATIENCE = 0.25

#: Seconds of a round for what is no frame of a running stream, if one request takes less.
SHARE = 0.0005

logger = logging.getLogger(__name__)


class Load:
    """Something that waits; *descriptor*, *timer*, *alarm*, *away* are the carrier's notes."""

    #: Whether there is nothing more to carry.
    ended = False

    #: The descriptor that the carrier polls for it.
    descriptor: int | None = None
    #: When the carrier will look at it, ``time.monotonic()``, and the number of that alarm.
    timer = math.inf
    alarm = -1
    #: Whether a worker has it.
    away = False
    #: What moves most of what comes to the descriptor without :meth:`step`, until that.
    lane: Lane | None = None

    def fileno(self) -> int | None:
        """Return the file descriptor to poll, or None."""
        raise NotImplementedError

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
    """The thread; *workers* run what may block.

    :meth:`call` and :meth:`carry` start it if nobody calls :meth:`run` in a thread of his own.
    """

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        #: How long the last round took, in seconds: so late can a frame be.
        self.lag = 0.0
        self._poller = new_poller()
        # By what is polled; None once nobody wants to hear of it.
        self._handlers: dict[int, Load | Callable[[int], object] | None] = {}
        self._loads: dict[Load, None] = {}
        self._timers: list[tuple[float, int]] = []
        self._alarms: dict[int, Load] = {}  # by their numbers: the heap keeps no ended load alive
        self._count = itertools.count()
        self._calls: deque[Callable[[], object]] = deque()
        self._beginning: deque[Load] = deque()  # to be taken over when there is time
        self._put_off = False  # whether the last round had no time for others
        self._looks = math.inf  # when to :meth:`_look` although only streams have news
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)
        self._register(self._inside.fileno(), IN, self._drain_wakes)
        self._woken = self._stopped = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    # From any thread

    @property
    def carried(self) -> int:
        """How many loads there are."""
        return len(self._loads)

    def carry(self, load: Load) -> None:
        """Take *load* over, until it has ended."""
        self.call(functools.partial(self._take, load))

    def call(self, function: Callable[[], object]) -> None:
        """Run *function*, which must not block, on the carrier's thread."""
        self._calls.append(function)
        if self._thread is None:
            self._start()
        self._wake()

    def step_all(self) -> None:
        """Ask every load now: something concerns them all."""
        if self._thread is not None:
            self.call(self._step_all)

    def stop(self) -> None:
        """Make :meth:`run` return; what is carried stays as it is."""
        self._stopped = True
        self._wake()

    def close(self) -> None:
        """Stop, wait for the thread's end, and free what the carrier holds."""
        self.stop()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(4 * PATIENCE)
        self.workers.close()
        self._poller.close()
        self._inside.close()
        self._outside.close()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            with contextlib.suppress(OSError):  # full: it wakes up anyway; closed: it is over
                self._outside.send(b"\0")

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self.run, name="carrier", daemon=True)
                self._thread.start()

    # On the carrier's thread

    def run(self) -> None:
        """Carry until :meth:`stop`."""
        self._thread = threading.current_thread()
        while not self._stopped:
            self._round()

    def _round(self) -> None:
        calls = len(self._calls)
        for _ in range(calls):
            self._calls.popleft()()
        self._woken = False  # a call from here on wakes us: before looking a last time
        patience = 0.0
        if not (self._calls or self._beginning or self._stopped):
            due = min(self._timers[0][0], self._looks) if self._timers else self._looks
            patience = max(0.0, min(due - time.monotonic(), LOOK))
        ready = self._poller.poll(patience)
        self._woken = True  # we look again before we wait
        now = time.monotonic()
        handlers = self._handlers
        loads: list[Load] = []
        others: list[tuple[Callable[[int], object], int]] = []
        for descriptor, events in ready:
            handler = handlers.get(descriptor)
            if isinstance(handler, Load):
                lane = handler.lane
                if lane is None or not lane.pass_on(now):
                    loads.append(handler)
            elif handler is not None:
                others.append((handler, events))
            else:
                self._forget(descriptor)
        for load in loads:
            self.step(load)
        if self._timers and self._timers[0][0] <= now:
            self._ring(now)
        if others or self._beginning or now >= self._looks:
            # Every other round at the least; lanes go first again if this one was long already.
            self._put_off = not self._put_off and time.monotonic() > now + SHARE
            if not self._put_off:
                self._do_others(others)
        self.lag = time.monotonic() - now

    def _do_others(self, others: list[tuple[Callable[[int], object], int]]) -> None:
        """Do for SHARE seconds what is no frame of a running stream."""
        limit = time.monotonic() + SHARE
        for handle, events in others:
            handle(events)
            if time.monotonic() > limit:
                break  # the poller tells of the rest again
        while self._beginning:
            load = self._beginning.popleft()
            self._loads[load] = None
            self.step(load)
            if time.monotonic() > limit:
                break
        if limit >= self._looks:
            self._look()

    def _look(self) -> None:
        """Look after what nobody tells of; sets the time of the next look."""

    def _step_all(self) -> None:
        for load in list(self._loads):
            self.step(load)

    def _take(self, load: Load) -> None:
        self._loads[load] = None
        self.settle(load)

    def step(self, load: Load) -> None:
        """Have *load* move what it has; nothing happens while a worker does that."""
        if not (load.away or load.ended):
            load.step(0.0)
            self.settle(load)

    def settle(self, load: Load) -> None:
        """Wait for what *load* waits for now."""
        if load.ended:
            self._watch(load, None)
            self._alarms.pop(load.alarm, None)
            if load in self._loads:
                del self._loads[load]
                load.leave()
            return
        descriptor, due = load.fileno(), load.due
        self._watch(load, descriptor)
        if due is not None:
            self._set_timer(load, due)
        elif descriptor is None:
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
        last = load.descriptor
        # What a stream has closed can be another stream's descriptor by now.
        if last is not None and last != descriptor and self._handlers.get(last) is load:
            self._handlers[last] = None  # mostly an upstream's, who will be asked again
        load.descriptor = descriptor
        if descriptor is not None:
            self._register(descriptor, IN, load)

    def _register(
        self, descriptor: int, events: int, handler: Load | Callable[[int], object]
    ) -> None:
        """Poll *descriptor* in place of whoever had it before and closed it without a word.

        That may be *handler* itself: it is not enough that the number is the same.
        """
        known = descriptor in self._handlers
        self._handlers[descriptor] = handler
        try:
            (self._poller.modify if known else self._poller.register)(descriptor, events)
        except FileExistsError:
            self._poller.modify(descriptor, events)
        except FileNotFoundError:
            self._poller.register(descriptor, events)

    def _forget(self, descriptor: int) -> None:
        """Poll *descriptor* no more."""
        self._handlers.pop(descriptor, None)
        with contextlib.suppress(OSError):  # closed: then nothing is polled any more
            self._poller.unregister(descriptor)

    def _set_timer(self, load: Load, due: float) -> None:
        if due < load.timer:
            self._alarms.pop(load.alarm, None)
            load.timer = min(due, time.monotonic() + LOOK)
            load.alarm = next(self._count)
            self._alarms[load.alarm] = load
            heapq.heappush(self._timers, (load.timer, load.alarm))

    def _ring(self, now: float) -> None:
        """Step the loads whose time has come."""
        rung = []
        while self._timers and self._timers[0][0] <= now:
            load = self._alarms.pop(heapq.heappop(self._timers)[1], None)
            if load is not None:  # else it has ended, or an earlier one took its place
                load.timer = math.inf
                if not (load.away or load.ended):
                    rung.append(load)
        for load in rung:
            due = load.due
            if due is not None and due <= now:
                self.step(load)
            elif due is not None:
                self._set_timer(load, due)

    def _drain_wakes(self, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._inside.recv(4096)
