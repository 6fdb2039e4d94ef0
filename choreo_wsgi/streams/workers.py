"""Threads for calls that may block."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], object]

logger = logging.getLogger(__name__)

#: Bytes of address space for a thread's stack; untouched pages cost no memory.  With the
#: system's 8 MiB a thousand threads reserve 8 GiB, which some containers refuse.
STACK = 1024 * 1024


class Workers:
    """At most *most* threads that run jobs; a thread is started when all others are busy.

    The thread that became idle last runs the next job: a quiet server keeps using the same
    few, whose stacks are still in the cache.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.started = 0
        self._lock = threading.Lock()
        self._queue: deque[Job] = deque()
        self._idle: list[SimpleQueue[Job | None]] = []  # the inboxes of the idle threads
        self._closed = False

    def submit(self, job: Job) -> None:
        """Run *job* in the first thread that is free; return at once."""
        with self._lock:
            if self._idle:
                self._idle.pop().put(job)
            elif self.started < self.most:
                self._start_thread(job)
            else:
                self._queue.append(job)

    def _start_thread(self, job: Job) -> None:
        """Start a thread that runs *job* first; raise RuntimeError if not even one can start."""
        name = f"worker-{self.started + 1}"
        before = threading.stack_size(STACK)
        try:
            inbox: SimpleQueue[Job | None] = SimpleQueue()
            threading.Thread(target=self._run_jobs, args=(inbox,), name=name, daemon=True).start()
            inbox.put(job)
            self.started += 1
        except RuntimeError:
            if not self.started:
                raise RuntimeError("the system allows no thread") from None
            logger.error("the system allows %d threads of %d (ulimit -u)", self.started, self.most)
            self.most = self.started
            self._queue.append(job)
        finally:
            threading.stack_size(before)

    def ensure(self, least: int) -> None:
        """Start *least* threads; raise RuntimeError if the system does not allow that."""
        go = threading.Event()
        try:
            for _ in range(least):
                self.submit(go.wait)
        finally:
            go.set()
        if self.started < least:
            raise RuntimeError(f"the system allows {self.started} threads, {least} are needed")

    def close(self) -> None:
        """End the idle threads; a busy one ends after its job."""
        with self._lock:
            self._closed = True
            for inbox in self._idle:
                inbox.put(None)
            self._idle = []

    def _run_jobs(self, inbox: SimpleQueue[Job | None]) -> None:
        while (job := inbox.get()) is not None:
            try:
                job()
            except Exception:
                logger.exception("a job failed")
            del job  # frees the objects that it holds while this thread waits
            with self._lock:
                if self._queue:
                    inbox.put(self._queue.popleft())
                elif self._closed:
                    return
                else:
                    self._idle.append(inbox)
