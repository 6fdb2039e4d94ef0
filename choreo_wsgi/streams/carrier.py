"""One thread that waits for all streams, for the server's connections and for its listeners.

A stream mostly waits, and a thread for each stream would cost a thread switch per frame.  So
everything that waits is a *load*, and one thread, the carrier's, steps a load when:

* Its descriptor is readable or writable: the poller reports it.
* Its time has come (a heartbeat, a timeout, the end of a pause): a heap of times reports it.
  Loads share times that are not soon, so the heap stays small.  A time that is put off stays in
  the heap: when it is reached, the load gets its new time.
* Another thread requests it through :meth:`Carrier.call`.

Threads: a step on the carrier's thread must not block.  A load without a descriptor and a time
can only be waited for by blocking, so a worker steps it until it can be polled.  A load belongs
to the carrier or to one worker, never to both, and needs no lock.

Descriptors: a load owns its descriptor and the carrier polls it.  A stream may close one without
notice, and its number may be another stream's at once.  So ``_polled`` names the load that
registered a number last, and no other load may unregister it.

Order of a round: calls, streams that are ready (through their lanes, then by steps), times that
have come, and last the connections, listeners and new requests, for SHARE seconds: a storm of
requests is spread over many rounds and does not delay the frames of running streams.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import logging
import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from .load import Load
from .poller import EPOLL, IN, new_poller
from .workers import Workers

logger = logging.getLogger(__name__)

#: Longest wait of the poller, in seconds.
LONGEST = 60.0

#: Times more than SOON seconds ahead are rounded up to one of SHARED times per second.
SOON, SHARED = 1.0, 16

#: Seconds that a worker waits for a load before it checks whether the carrier can poll it again.
PATIENCE = 0.25

#: Seconds of a round for connections, listeners and new requests; one step may exceed it.
SHARE = 0.0005


class Carrier:
    """The thread that calls :meth:`run`; *workers* run the steps that may block."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        #: Seconds that the last round took: the most that a frame was delayed.
        self.lag = 0.0
        self._poller = new_poller()
        #: Polled descriptors with their loads; None when the load does not want it any more.
        self._polled: dict[int, Load | None] = {}
        self._loads: dict[Load, None] = {}
        self._times: list[float] = []  # a heap of the keys of _alarms
        self._alarms: dict[float, dict[Load, None]] = {}
        self._calls: deque[Callable[[], object]] = deque()
        self._scheduled: dict[Load, None] = {}  # to step after the streams, in this order
        self._skipped = False  # whether the last round left no time for them
        self._wake_reader, self.waker = socket.socketpair()
        self._wake_reader.setblocking(False)
        self.waker.setblocking(False)
        self._poller.register(self._wake_reader.fileno(), IN)
        self._woken = self._stopped = False
        self._thread: threading.Thread | None = None

    # From any thread

    def start(self) -> None:
        """Run in a new thread until :meth:`close`."""
        self._thread = threading.Thread(target=self.run, name="carrier", daemon=True)
        self._thread.start()

    @property
    def carried(self) -> int:
        """The number of streams."""
        return sum(not load.steady for load in list(self._loads))

    def carry(self, load: Load) -> None:
        """Add *load*, from any thread."""
        self.call(functools.partial(self.add, load))

    def call(self, function: Callable[[], object]) -> None:
        """Run *function*, which must not block, on the carrier's thread."""
        self._calls.append(function)
        self._wake()

    def step_all(self) -> None:
        """Step every load now, because of a change that concerns all of them."""
        self.call(lambda: [*map(self.step, list(self._loads))])

    def stop(self) -> None:
        """Make :meth:`run` return; the loads stay as they are."""
        self._stopped = True
        self._wake()

    def close(self) -> None:
        """Stop, wait for the thread to end, and close the poller, the sockets and the workers."""
        self.stop()
        if self._thread is not None:
            self._thread.join(4 * PATIENCE)
        self.workers.close()
        for one in (self._poller, self._wake_reader, self.waker):
            one.close()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            with contextlib.suppress(OSError):  # full: a wake is pending; closed: nobody waits
                self.waker.send(b"\0")

    # On the carrier's thread

    def run(self) -> None:
        """Carry the loads until :meth:`stop`."""
        while not self._stopped:
            self._round()

    def _round(self) -> None:
        for _ in range(len(self._calls)):
            self._calls.popleft()()
        self._woken = False  # before the check below: a call that comes after it wakes the poller
        timeout = 0.0
        if not (self._calls or self._scheduled or self._stopped):
            due = self._times[0] if self._times else math.inf
            timeout = max(0.0, min(due - time.monotonic(), LONGEST))
        ready = self._poller.poll(timeout)
        self._woken = True  # calls are checked before the next poll, so none need wake it
        now = time.monotonic()
        streams: list[Load] = []
        for descriptor, _ in ready:
            load = self._polled.get(descriptor)
            if load is None:
                self._stop_polling(descriptor)
            elif load.steady:
                self._scheduled[load] = None
            else:
                lane = load.lane
                if lane is None or not lane.forward(now):
                    streams.append(load)
        for load in streams:
            self.step(load)
        if self._times and self._times[0] <= now:
            self._step_due(now)
        if self._scheduled:
            # Skip them when the streams took long already, but never twice in a row.
            self._skipped = not self._skipped and time.monotonic() > now + SHARE
            limit = -1.0 if self._skipped else time.monotonic() + SHARE
            while self._scheduled and time.monotonic() < limit:
                load = next(iter(self._scheduled))
                del self._scheduled[load]
                self.step(load)
        self.lag = time.monotonic() - now

    def add(self, load: Load) -> None:
        """Carry *load* until it has ended."""
        self._loads[load] = None
        self.update(load)

    def schedule(self, load: Load) -> None:
        """Carry *load*, and step it after the running streams."""
        self._loads[load] = self._scheduled[load] = None

    def step(self, load: Load) -> None:
        """Step *load*, unless a worker does that now."""
        if not (load.on_worker or load.ended):
            try:
                load.step(0.0)
                self._update(load)
            except Exception as error:
                self._abandon(load, error)

    def update(self, load: Load) -> None:
        """Wait for the descriptor and the time that *load* has now; drop it if it has ended."""
        try:
            self._update(load)
        except Exception as error:
            self._abandon(load, error)

    def _abandon(self, load: Load, error: Exception) -> None:
        """Drop *load*, such as a stream that names the descriptor of a closed socket."""
        logger.error("a stream or connection cannot go on", exc_info=error)
        load.abandon(error)
        load.ended = True
        self._update(load)

    def _update(self, load: Load) -> None:
        if load.ended:
            self._watch(load, None)
            if load.timer < math.inf:
                del self._alarms[load.timer][load]
                load.timer = math.inf
            if load in self._loads:
                del self._loads[load]
                load.release()
            return
        if load.lane is None or load.descriptor is None:  # a lane's descriptor is polled already
            self._watch(load, load.fileno())
        due = load.due
        if due is not None:
            self._set_timer(load, due)
        elif load.descriptor is None:
            load.on_worker = True
            self.workers.submit(functools.partial(self._step_on_worker, load))

    def _step_on_worker(self, load: Load) -> None:
        """Step *load*, on a worker's thread, until it can be polled or has ended."""
        failure: Exception | None = None
        try:
            load.step(PATIENCE)
            while not load.ended and _blocks(load):
                load.step(PATIENCE)
        except Exception as error:
            failure = error
        self.call(functools.partial(self._take_back, load, failure))

    def _take_back(self, load: Load, failure: Exception | None) -> None:
        load.on_worker = False
        if failure is not None:
            self._abandon(load, failure)
        elif load.ended or _blocks(load):
            self.update(load)
        else:
            self.step(load)  # steps were skipped meanwhile: the client may have left

    def _watch(self, load: Load, descriptor: int | None) -> None:
        """Poll *descriptor*, and no other, for *load*."""
        before, events = load.descriptor, load.events if load.steady else IN
        descriptor = descriptor if events else None
        if load.steady and descriptor == before and events == load.polled_events:
            return
        # The number of a descriptor that a stream closed may be another stream's by now.
        if before is not None and before != descriptor and self._polled.get(before) is load:
            self._polled[before] = None  # unregistered at its next event: often it is wanted again
            if load.steady:
                self._stop_polling(before, closing=load.ended)
        load.descriptor, load.polled_events = descriptor, events
        if descriptor is None:
            return
        # Even if the number is known: its descriptor may have been closed, which epoll forgets.
        known = descriptor in self._polled
        self._polled[descriptor] = load
        try:
            (self._poller.modify if known else self._poller.register)(descriptor, events)
        except FileExistsError:
            self._poller.modify(descriptor, events)
        except FileNotFoundError:
            self._poller.register(descriptor, events)

    def _stop_polling(self, descriptor: int, closing: bool = False) -> None:
        """Unregister *descriptor*, or drain it if it is the carrier's own."""
        if descriptor == self._wake_reader.fileno():
            with contextlib.suppress(BlockingIOError):
                self._wake_reader.recv(4096)
            return
        self._polled.pop(descriptor, None)
        if not (closing and EPOLL):  # epoll drops a descriptor that is closed
            with contextlib.suppress(OSError):  # closed already
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

    def _step_due(self, now: float) -> None:
        """Step the loads whose time has come."""
        loads: list[Load] = []
        while self._times and self._times[0] <= now:
            loads += self._alarms.pop(heapq.heappop(self._times))
        for load in loads:
            load.timer = math.inf
        for load in loads:
            due = math.inf if load.on_worker or load.ended else _due(load)
            if due is not None and due <= now:
                self.step(load)
            elif due is not None:
                self._set_timer(load, due)


def _due(load: Load) -> float | None:
    """Return when to step *load*: at once if that is unknown, as the step then abandons it."""
    try:
        return load.due
    except Exception:
        return 0.0


def _blocks(load: Load) -> bool:
    """Whether *load* can only be waited for by blocking."""
    try:
        return load.fileno() is None and _due(load) is None
    except Exception:
        return False
