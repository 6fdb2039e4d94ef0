"""Blocking work in a thread of its own, for the main thread, where signal handlers run.

An exception that a handler raises inside urllib3 can be taken there for a socket's (a
``TimeoutError`` for a socket timeout, an ``OSError`` for a reason to try the next address);
raised in a main thread that only waits, it is itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """What work may result in: something to be closed if nobody wants it any more."""

    def close(self) -> None: ...


T = TypeVar("T", bound=Closable)


class _Job(Generic[T]):
    """*work* in a thread; ``done`` is set at its end."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.done = threading.Event()
        self._work = work
        self._lock = threading.Lock()
        self._abandoned = False
        self._results: list[T] = []
        self._error: BaseException | None = None

    def main(self) -> None:
        try:
            result = self._work()
        except BaseException as error:
            self._error = error
        else:
            with self._lock:
                self._results.append(result)
                if self._abandoned:
                    self._results.pop().close()
        self.done.set()

    def abandon(self) -> None:
        """Close the result, whether it is there or still to come."""
        with self._lock:
            self._abandoned = True
            if self._results:
                self._results.pop().close()

    def result(self) -> T:
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # no cycle of error, traceback, frame and job
        return self._results.pop()


def run(work: Callable[[], T], cancel: Callable[[], None]) -> T:
    """Return ``work()``; in the main thread, done so that a signal handler can end it.

    Whatever a handler raises comes out at once and as it is, and *cancel* is called.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    job = _Job(work)
    threading.Thread(target=job.main, daemon=True).start()
    try:
        job.done.wait()
    except BaseException:
        cancel()
        job.abandon()
        raise
    return job.result()
