"""Threads for what may block."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

logger = logging.getLogger(__name__)

#: Bytes of address space for a thread's stack; what it does not touch costs no memory.  With
#: the system's 8 MiB a thousand threads reserve 8 GiB, which some containers refuse.
STACK = 1024 * 1024


class _Worker:
    """One thread and the job that it is woken for."""

    __slots__ = ("job", "wake")

    def __init__(self, job: Callable[[], None]) -> None:
        self.job: Callable[[], None] | None = job
        self.wake = threading.Lock()
        self.wake.acquire()


class Workers:
    """At most *most* threads that run jobs; each is made when all others are busy.

    The thread that became idle last runs the next job: a quiet server keeps using the same
    few, whose stacks are still in the cache.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.made = 0
        self._lock = threading.Lock()
        self._queue: deque[Callable[[], None]] = deque()
        self._idle: list[_Worker] = []
        self._closed = False

    def submit(self, job: Callable[[], None]) -> None:
        """Run *job* in a thread, as soon as one is free; never waits for one."""
        with self._lock:
            if self._idle:
                worker = self._idle.pop()
                worker.job = job
                worker.wake.release()
                return
            if self.made >= self.most:
                self._queue.append(job)
                return
            self.made += 1
            worker = _Worker(job)
            name = f"worker-{self.made}"
            before = threading.stack_size(STACK)
            try:
                thread = threading.Thread(target=self._work, args=(worker,), name=name, daemon=True)
                thread.start()
            except RuntimeError:
                self._do_with_fewer(job)
            finally:
                threading.stack_size(before)

    def _do_with_fewer(self, job: Callable[[], None]) -> None:
        """Leave *job* to the threads that there are; raises RuntimeError if there are none."""
        self.made -= 1
        if not self.made:
            raise RuntimeError("the system allows no thread")
        logger.error("the system allows %d threads of %d (ulimit -u)", self.made, self.most)
        self.most = self.made
        self._queue.append(job)

    def prove(self, least: int) -> None:
        """Raise RuntimeError unless *least* threads can be made, and make them."""
        go = threading.Event()

        def wait() -> None:
            go.wait()

        try:
            for _ in range(least):
                self.submit(wait)
        finally:
            go.set()
        if self.made < least:
            raise RuntimeError(f"the system allows {self.made} threads, {least} are needed")

    def close(self) -> None:
        """End the threads that are idle; the others end with their jobs."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.wake.release()

    def _work(self, worker: _Worker) -> None:
        while not self._closed or worker.job is not None:
            job = worker.job
            while job is not None:
                try:
                    job()
                except Exception:
                    logger.exception("a job failed")
                job = self._next(worker)
            worker.wake.acquire()

    def _next(self, worker: _Worker) -> Callable[[], None] | None:
        """Return a job that waits, or None, and then *worker* is idle."""
        with self._lock:
            if self._queue:
                return self._queue.popleft()
            worker.job = None
            if self._closed:
                worker.wake.release()
            else:
                self._idle.append(worker)
            return None
