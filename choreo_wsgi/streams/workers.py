"""Threads for what may block."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], object]

logger = logging.getLogger(__name__)

#: Bytes of address space for a thread's stack; what it does not touch costs no memory.  With
#: the system's 8 MiB a thousand threads reserve 8 GiB, which some containers refuse.
STACK = 1024 * 1024


class Workers:
    """At most *most* threads that run jobs; each is made when all others are busy.

    The thread that became idle last runs the next job: a quiet server keeps using the same
    few, whose stacks are still in the cache.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.made = 0
        self._lock = threading.Lock()
        self._queue: deque[Job] = deque()
        self._idle: list[SimpleQueue[Job | None]] = []  # by where each gets its next job
        self._closed = False

    def submit(self, job: Job) -> None:
        """Run *job* in a thread, as soon as one is free; never waits for one."""
        with self._lock:
            if self._idle:
                self._idle.pop().put(job)
            elif self.made < self.most:
                self._make_thread(job)
            else:
                self._queue.append(job)

    def _make_thread(self, job: Job) -> None:
        """Make a thread that begins with *job*; raise RuntimeError if there can be none at all."""
        name = f"worker-{self.made + 1}"
        before = threading.stack_size(STACK)
        try:
            inbox: SimpleQueue[Job | None] = SimpleQueue()
            threading.Thread(target=self._work, args=(inbox,), name=name, daemon=True).start()
            inbox.put(job)
            self.made += 1
        except RuntimeError:
            if not self.made:
                raise RuntimeError("the system allows no thread") from None
            logger.error("the system allows %d threads of %d (ulimit -u)", self.made, self.most)
            self.most = self.made
            self._queue.append(job)
        finally:
            threading.stack_size(before)

    def prove(self, least: int) -> None:
        """Make *least* threads; raise RuntimeError if the system does not allow that."""
        go = threading.Event()
        try:
            for _ in range(least):
                self.submit(go.wait)
        finally:
            go.set()
        if self.made < least:
            raise RuntimeError(f"the system allows {self.made} threads, {least} are needed")

    def close(self) -> None:
        """End the threads that are idle; the others end with their jobs."""
        with self._lock:
            self._closed = True
            for inbox in self._idle:
                inbox.put(None)
            self._idle = []

    def _work(self, inbox: SimpleQueue[Job | None]) -> None:
        while (job := inbox.get()) is not None:
            try:
                job()
            except Exception:
                logger.exception("a job failed")
            del job  # what it holds is not needed while this waits
            with self._lock:
                if self._queue:
                    inbox.put(self._queue.popleft())
                elif self._closed:
                    return
                else:
                    self._idle.append(inbox)
