"""Threads for what may block: when the system allows fewer of them."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable

import harness
import pytest

from choreo_wsgi.streams.workers import Workers


@pytest.fixture
def allow(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """``allow(n)``: after *n* more threads the system says no, as at a pids limit."""

    def limit(count: int) -> None:
        left = [count]
        start = threading.Thread.start

        def starting(thread: threading.Thread) -> None:
            if not left[0]:
                raise RuntimeError("can't start new thread")
            left[0] -= 1
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", starting)

    return limit


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "choreo_wsgi.streams.workers")


def test_jobs_wait_for_the_threads_that_there_are(allow: Callable[[int], None]) -> None:
    workers = Workers(10)
    allow(2)
    go, done = threading.Event(), threading.Semaphore(0)

    def job() -> None:
        go.wait(harness.DEADLINE)
        done.release()

    for _ in range(6):
        workers.submit(job)
    assert workers.started == workers.most == 2
    go.set()
    for _ in range(6):
        assert done.acquire(timeout=harness.DEADLINE)
    workers.close()
    assert threading.stack_size() == 0  # other threads have the system's


def test_without_any_thread_nothing_is_promised(allow: Callable[[int], None]) -> None:
    workers = Workers(10)
    allow(0)
    with pytest.raises(RuntimeError, match="allows no thread"):
        workers.submit(lambda: None)


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_too_few_threads_are_found_out(allow: Callable[[int], None], allowed: int) -> None:
    workers = Workers(10)
    allow(allowed)
    with pytest.raises(RuntimeError, match="the system allows"):
        workers.ensure(4)
    workers.close()


def test_enough_threads_are_kept(allow: Callable[[int], None]) -> None:
    workers = Workers(10)
    allow(4)
    workers.ensure(4)
    assert workers.started == 4
    harness.wait_until(lambda: not harness.busy(workers), "the threads are idle")
    workers.close()


def test_a_job_that_fails_leaves_its_thread_to_the_next() -> None:
    workers = Workers(1)
    done = threading.Event()

    def fail() -> None:
        raise KeyError("a job of somebody's")

    workers.submit(fail)
    workers.submit(done.set)
    assert done.wait(harness.DEADLINE)
    assert workers.started == 1
    workers.close()


def test_the_thread_that_was_busy_last_is_busy_next() -> None:
    workers = Workers(3)
    workers.ensure(3)
    names = []
    for _ in range(4):
        harness.wait_until(lambda: not harness.busy(workers), "the threads are idle")
        done = threading.Event()

        def job(done: threading.Event = done) -> None:
            names.append(threading.current_thread().name)
            done.set()

        workers.submit(job)
        assert done.wait(harness.DEADLINE)
    assert len(set(names)) == 1
    workers.close()


def test_a_busy_thread_ends_with_its_job_once_all_is_closed() -> None:
    workers, go = Workers(1), threading.Event()
    threads: list[threading.Thread] = []

    def job() -> None:
        threads.append(threading.current_thread())
        go.wait(harness.DEADLINE)

    workers.submit(job)
    harness.wait_until(lambda: threads, "it runs")
    workers.close()
    go.set()
    threads[0].join(harness.DEADLINE)
    assert not threads[0].is_alive()


def test_an_idle_thread_holds_nothing_of_its_jobs() -> None:
    """The first is no exception, with which the thread was made."""

    class Job:
        def __call__(self) -> None:
            pass

    workers = Workers(1)
    for _ in range(2):
        job = Job()
        gone = weakref.ref(job)
        workers.submit(job)
        del job
        harness.wait_until(lambda gone=gone: gone() is None, "it is let go of")  # type: ignore
    workers.close()
