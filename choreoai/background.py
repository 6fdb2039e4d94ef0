"""Blocking work in a thread of its own, for callers that must not block.

Two callers need it: an event loop, and the main thread, where signal handlers run.  An
exception that a handler raises inside urllib3 can be taken there for a socket's (a
``TimeoutError`` for a socket timeout, an ``OSError`` for a reason to try the next address);
raised in a main thread that only waits, it is itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Job", "run"]


T = TypeVar("T")


class Job(Generic[T]):
    """*work* to be done in a thread; *cancel* makes it return early.

    A result that comes after :meth:`abandon` is closed, if it can be.
    """

    def __init__(self, work: Callable[[], T], cancel: Callable[[], None]) -> None:
        self._work = work
        self._cancel = cancel
        self._lock = threading.Lock()
        self._abandoned = False
        self._results: list[T] = []
        self._error: BaseException | None = None

    def start(self, when_done: Callable[[], None]) -> None:
        """Begin; *when_done* is called in the job's thread at the end."""
        threading.Thread(target=self._main, args=(when_done,), daemon=True).start()

    def abandon(self) -> None:
        """Cancel the work; nobody will ask for its result."""
        with self._lock:
            self._abandoned = True
            results, self._results = self._results, []
        self._cancel()
        for result in results:
            _close(result)

    def result(self) -> T:
        """Return what the work returned, or raise what it raised; once."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # no cycle of error, traceback, frame and job
        return self._results.pop()

    def _main(self, when_done: Callable[[], None]) -> None:
        try:
            result = self._work()
        except BaseException as error:
            self._error = error
        else:
            with self._lock:
                abandoned = self._abandoned
                if not abandoned:
                    self._results.append(result)
            if abandoned:
                _close(result)
        when_done()


def _close(result: object) -> None:
    close = getattr(result, "close", None)
    if close is not None:
        close()


def run(work: Callable[[], T], cancel: Callable[[], None]) -> T:
    """Return ``work()``; in the main thread, done so that a signal handler can end it.

    Whatever a handler raises comes out at once and as it is, and *cancel* is called.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    done = threading.Event()
    job = Job(work, cancel)
    job.start(done.set)
    try:
        done.wait()
    except BaseException:
        job.abandon()
        raise
    return job.result()
