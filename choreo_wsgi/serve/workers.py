"""The threads that run requests, of which only a few begin at the same time.

When hundreds of requests arrive at once, hundreds of threads that parse, check and connect
would wait for the interpreter behind each other, and everybody who has a frame to send behind
them.  So a request begins only while fewer than :data:`STARTING` others do; it has begun when
it says that it waits for its provider.  All requests together begin no later than they would
have, for they share one interpreter anyway.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Any

logger = logging.getLogger(__name__)

#: Requests that begin at the same time.  Fewer keep frames flowing better while requests
#: storm in, more have the last of them answered sooner.
STARTING = 4

#: Seconds after which a request counts as begun, whatever it does: a provider that blocks
#: where it should not must not keep others from beginning.
YOUNG = 0.05

#: Bytes of address space for a worker's stack; what it does not touch costs no memory.  With
#: the system's 8 MiB a thousand workers reserve 8 GiB, which some containers refuse.
STACK = 1024 * 1024


class _Worker:
    """One thread and the task that it is woken for."""

    __slots__ = ("task", "wake")

    def __init__(self) -> None:
        self.task: Any = None
        self.wake = threading.Lock()
        self.wake.acquire()


class Workers:
    """*count* threads that run tasks; waitress calls this its task dispatcher.

    The thread that became idle last runs the next task: a quiet server keeps using the same
    few, whose stacks are still in the cache.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._lock = threading.Lock()
        self._queue: deque[Any] = deque()
        self._resumed: deque[Any] = deque()
        self._idle: list[_Worker] = []
        self._starting: dict[_Worker, float] = {}  # since when
        self._own = threading.local()
        # All at once now: a thread started among running streams waits for its turn with them.
        before = threading.stack_size(STACK)
        try:
            for number in range(count):
                worker = _Worker()
                self._idle.append(worker)
                name = f"worker-{number}"
                threading.Thread(target=self._work, args=(worker,), name=name, daemon=True).start()
        finally:
            threading.stack_size(before)

    def add_task(self, task: Any) -> None:
        """Begin ``task.service()`` in a thread, as soon as one is idle and few others begin."""
        self._queue.append(task)
        self.begin()

    def resume(self, task: Any) -> None:
        """Go on with ``task.service()`` in a thread: it has begun before, and is not held up."""
        with self._lock:
            if not self._idle:
                self._resumed.append(task)
                return
            worker = self._idle.pop()
        worker.task = task
        worker.wake.release()

    def waiting(self) -> None:
        """The calling thread's request has begun: from here on it waits for its provider."""
        worker = self._own.worker
        with self._lock:
            self._starting.pop(worker, None)
        self.begin()

    def begin(self) -> None:
        """Begin a task that waits, if it may; to be called now and then."""
        if not self._queue:
            return
        with self._lock:
            if not self._idle or not self._may_begin():
                return
            worker = self._idle.pop()
            worker.task = self._begun(worker)
        worker.wake.release()

    def _may_begin(self) -> bool:
        if not self._queue:
            return False
        if len(self._starting) >= STARTING:
            old = time.monotonic() - YOUNG
            for worker in [one for one, since in self._starting.items() if since < old]:
                del self._starting[worker]
        return len(self._starting) < STARTING

    def _begun(self, worker: _Worker) -> Any:
        self._starting[worker] = time.monotonic()
        return self._queue.popleft()

    def _work(self, worker: _Worker) -> None:
        self._own.worker = worker
        while True:
            worker.wake.acquire()
            task: Any = worker.task
            while task is not None:
                try:
                    task.service()
                except BaseException:
                    logger.exception("a request failed outside of the application")
                task = self._next(worker)

    def _next(self, worker: _Worker) -> Any:
        """Return a task that waits, or None, and then *worker* is idle."""
        with self._lock:
            self._starting.pop(worker, None)
            if self._resumed:
                return self._resumed.popleft()
            if self._may_begin():
                return self._begun(worker)
            worker.task = None
            self._idle.append(worker)
            return None
