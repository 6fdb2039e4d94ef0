"""Worker threads: queues, failures, and a system that allows few threads."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable

import harness
import pytest

from choreo_wsgi.streams.workers import STACK, Workers


@pytest.fixture
def allow(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """``allow(n)``: after *n* more threads the system refuses, as at a limit of pids."""

    def limit(count: int) -> None:
        left = [count]
        start = threading.Thread.start

        def starting(thread: threading.Thread) -> None:
            if not left[0]:
                raise RuntimeError("can't start new thread")
            left[0] -= 1
            assert threading.stack_size() == STACK
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", starting)

    return limit


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "choreo_wsgi.streams.workers")


def test_jobs_wait_when_system_allows_fewer_threads(
    allow: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "choreo_wsgi.streams.workers")
    workers = Workers(10)
    allow(2)
    proceed, done = threading.Event(), threading.Semaphore(0)

    def job() -> None:
        proceed.wait(harness.DEADLINE)
        done.release()

    for _ in range(6):
        workers.submit(job)
    assert workers.started == workers.most == 2
    assert "the system allows 2 threads of 10" in caplog.text
    proceed.set()
    for _ in range(6):
        assert done.acquire(timeout=harness.DEADLINE)
    workers.close()
    assert threading.stack_size() == 0  # the default for other threads is unchanged


def test_submit_raises_without_any_thread(allow: Callable[[int], None]) -> None:
    workers = Workers(10)
    allow(0)
    with pytest.raises(RuntimeError, match="allows no thread"):
        workers.submit(lambda: None)


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_ensure_raises_with_too_few_threads(allow: Callable[[int], None], allowed: int) -> None:
    workers = Workers(10)
    allow(allowed)
    with pytest.raises(RuntimeError, match="the system allows"):
        workers.ensure(4)
    workers.close()


def test_ensure_starts_threads_that_stay(allow: Callable[[int], None]) -> None:
    workers = Workers(10)
    allow(4)
    workers.ensure(4)
    assert workers.started == 4
    harness.wait_until(lambda: not harness.busy(workers), "the threads are idle")
    workers.close()


def test_job_waits_for_thread_of_failing_job() -> None:
    workers = Workers(1)
    proceed, done = threading.Event(), threading.Event()

    def fail() -> None:
        assert proceed.wait(harness.DEADLINE)
        raise RuntimeError("a bug")

    workers.submit(fail)
    workers.submit(done.set)
    assert harness.busy(workers) == 1 and not done.is_set()
    proceed.set()
    assert done.wait(harness.DEADLINE)
    assert workers.started == 1
    workers.close()


def test_reuses_most_recently_busy_thread() -> None:
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


def test_busy_thread_ends_with_its_job_after_close() -> None:
    workers, proceed = Workers(1), threading.Event()
    threads: list[threading.Thread] = []

    def job() -> None:
        threads.append(threading.current_thread())
        proceed.wait(harness.DEADLINE)

    workers.submit(job)
    harness.wait_until(lambda: threads, "the job runs")
    workers.close()
    proceed.set()
    threads[0].join(harness.DEADLINE)
    assert not threads[0].is_alive()


def test_idle_thread_keeps_no_reference_to_its_jobs() -> None:
    """Not even to the first, for which the thread was started."""

    class Job:
        def __call__(self) -> None:
            pass

    workers = Workers(1)
    for _ in range(2):
        job = Job()
        gone = weakref.ref(job)
        workers.submit(job)
        del job
        harness.wait_until(lambda gone=gone: gone() is None, "the job is freed")  # type: ignore
    workers.close()
