"""Buffers, marks and the watcher of a shared store, mostly in an outage."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from replay_helpers import (
    DEADLINE,
    Opener,
    create,
    eventually,
    frame,
    frames,
    look,
    receive,
    write,
)

from choreo_wsgi.errors import NotFound, ReplayUnavailable
from choreo_wsgi.replay import open_store
from choreo_wsgi.replay.backend import LeaseObserver, Unreachable
from choreo_wsgi.settings import Settings


def make_unreachable(store: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make every operation of *store*'s backend fail; return the names of those called."""
    called: list[str] = []

    def failing(name: str) -> Callable[..., Any]:
        def fail(*_: Any) -> Any:
            called.append(name)
            raise Unreachable("it is away")

        return fail

    for name in ("beat", "insert", "write", "fetch", "delete", "mark", "wait_for_changes"):
        monkeypatch.setattr(store._backend, name, failing(name))
    return called


def test_drops_frames_from_the_largest_buffers(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small buffer may hold the end of its stream."""
    store: Any = open_shared(replay_total_bytes=100_000, replay_stream_bytes=90_000)
    make_unreachable(store, monkeypatch)
    small, large = create(store), create(store)
    small.append(frame(1), 1, end=True, wait=False)
    for number in range(1, 200):
        large.append(frames(number, number, "x" * 500), 1, wait=False)
    other = create(store)
    for number in range(1, 60):
        other.append(frames(number, number, "x" * 500), 1, wait=False)
    assert small.size == len(frame(1))
    assert store._keeper.buffered == small.size + large.size + other.size <= 100_000


def test_oversized_block_is_dropped_alone(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = open_shared(replay_stream_bytes=5_000)
    make_unreachable(store, monkeypatch)
    writer = create(store)
    writer.append(frames(1, 1, "x" * 9_000), 1, wait=False)
    assert writer.size == 0
    writer.append(frame(2), 1, wait=False)
    assert writer.size == len(frame(2)) and writer.last == 2
    for number in range(3, 200):  # joined in blocks, of which the oldest are dropped
        writer.append(frame(number), 1, wait=False)
        assert number < 100 or 2_500 < writer.size <= 5_000


def test_append_does_not_wait_for_a_slow_database(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = open_shared()
    may_write, real = threading.Event(), store._backend.write

    def write_slowly(*arguments: Any) -> Any:
        assert may_write.wait(2 * DEADLINE)
        return real(*arguments)

    monkeypatch.setattr(store._backend, "write", write_slowly)
    writer = create(store)
    writer.append(frame(1), 1)
    assert writer.size > 0
    may_write.set()
    eventually(lambda: writer.size == 0)


def test_append_waits_longer_for_a_large_block(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All long events of an answer were in memory, as SQLite takes more than 50 ms for each."""
    store: Any = open_shared()
    may_write, real = threading.Event(), store._backend.write

    def write_slowly(*arguments: Any) -> Any:
        assert may_write.wait(DEADLINE)
        return real(*arguments)

    def wait(timeout: float) -> bool:
        if timeout > 0.5:
            may_write.set()
        return progress(timeout)

    monkeypatch.setattr(store._backend, "write", write_slowly)
    writer: Any = create(store)
    progress = writer._progress.wait
    writer._progress.wait = wait
    writer.append(frame(1), 1)
    assert writer.size > 0
    writer.append(frame(2, "x" * 300_000), 1)
    assert writer.size == 0


def test_discard_in_an_outage_deletes_the_stream_after_it(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = open_shared()
    writer = create(store)
    write(writer, 1)
    with monkeypatch.context() as patch:
        make_unreachable(store, patch)
        writer.append(frame(2), 1, wait=False)
        eventually(lambda: not store.reachable)
        writer.discard()
        store._keeper.append(writer, frame(3), 1, False)  # by a thread that is just appending
        assert store._keeper.buffered == 0
    eventually(lambda: store.reachable)
    with pytest.raises(NotFound):
        look(store, writer.id)


def test_logs_an_outage_once(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does the keeper spin, though it has frames to write."""
    caplog.set_level(logging.WARNING, "choreo_wsgi.replay")
    store = open_shared(lease=5.0)
    writer = create(store)
    called = make_unreachable(store, monkeypatch)
    rounds = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: (time.monotonic(), next(rounds))[0])
    monkeypatch.setattr("choreo_wsgi.replay.keeper.time", clock)
    writer.append(frame(1), 1, wait=False)
    eventually(lambda: called.count("beat") > 3)
    assert caplog.text.count("the replay store cannot be reached") == 1
    assert next(rounds) < 1000


def test_end_of_an_outage_wakes_readers(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = open_shared(), open_shared(lease=5.0)
    theirs._keeper.recheck = 1000.0
    writer = create(ours)
    reader: Any = theirs.read(writer.id, "alice")
    assert reader.receive(0) == b""
    writer.append(frame(1), 1)
    eventually(reader._woken.is_set)
    with monkeypatch.context() as patch:
        called = make_unreachable(theirs, patch)
        assert reader.receive(0) == b"" and not theirs.reachable
        called.clear()
        eventually(lambda: called.count("beat") > 3)
        assert called.count("wait_for_changes") < 2
    assert reader.receive(DEADLINE) == frame(1)
    reader.close()


def test_reader_returns_frames_though_marking_fails(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch, patient: None
) -> None:
    ours: Any = open_shared()
    theirs: Any = open_shared()
    writer = create(ours)
    sent = write(writer, 1)

    def fail(id: str, mark: str) -> None:
        raise Unreachable("the outage has just begun")

    monkeypatch.setattr(theirs._backend, "mark", fail)
    reader = theirs.read(writer.id, "alice")
    assert reader.receive(0) == sent
    reader.close()


@pytest.mark.parametrize(("interval", "count"), [(1000.0, 1), (0.0, 5)])
def test_reader_marks_its_stream_at_intervals(
    interval: float, count: int, open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark is a write, so it is not made at every poll."""
    ours: Any = open_shared()
    theirs: Any = open_shared()
    writer = create(ours)
    write(writer, 1)
    marks: list[str] = []
    monkeypatch.setattr("choreo_wsgi.replay.reader._MARK_EVERY", interval)
    monkeypatch.setattr(theirs._backend, "mark", lambda _, mark: marks.append(mark))
    monkeypatch.setattr(ours._backend, "mark", lambda *_: pytest.fail("marked its own stream"))
    assert ours.read(writer.id, "alice").receive(0) == frame(1)
    reader = theirs.read(writer.id, "alice")
    for _ in range(5):
        reader.wake()
        reader.receive(0)
    assert marks == ["read"] * count
    reader.close()


def test_wakes_a_reader_opened_while_there_were_none(open_shared: Opener) -> None:
    """The watcher sleeps while there are no readers, and closed readers are not kept."""
    ours: Any = open_shared()
    theirs: Any = open_shared()
    theirs._keeper.recheck = 1000.0
    writer = create(ours)
    theirs.read(writer.id, "alice").close()
    assert not theirs._readers
    eventually(lambda: theirs._readers_changed._waiters)
    reader = theirs.read(writer.id, "alice")
    assert reader.receive(0) == b""
    sent = write(writer, 1)
    assert receive(reader, len(sent)) == sent
    reader.close()


def test_wakes_the_reader_that_is_behind_another(open_shared: Opener) -> None:
    ours, theirs = open_shared(), open_shared()
    theirs._keeper.recheck = 1000.0
    writer = create(ours)
    ahead, behind = (theirs.read(writer.id, "alice", after) for after in (9, 0))
    assert ahead.receive(0) == behind.receive(0) == b""
    sent = write(writer, 1)
    assert receive(behind, 1) == sent
    for reader in (ahead, behind):
        reader.close()


def test_concurrent_first_uses_start_one_keeper(open_shared: Opener) -> None:
    store: Any = open_shared()
    lock, waiting = threading.Lock(), threading.Semaphore(0)

    def acquire(*arguments: Any) -> bool:
        waiting.release()
        return lock.acquire(*arguments)

    counted = SimpleNamespace(acquire=acquire, release=lock.release)
    counted.__enter__, counted.__exit__ = acquire, lambda *_: lock.release()
    store._keeper._work = threading.Condition(counted)
    before = threading.active_count()
    with ThreadPoolExecutor(2) as pool:
        with lock:
            claims = [pool.submit(store.create, "alice") for _ in range(2)]
            assert all(waiting.acquire(timeout=DEADLINE) for _ in claims)
        assert all(claim.result(DEADLINE).writer for claim in claims)
        assert threading.active_count() == before + 3


def test_limits_how_far_a_reader_may_be_ahead(open_shared: Opener) -> None:
    ours, theirs = open_shared(), open_shared()
    writer = create(ours)
    write(writer, 2)
    ours.close()
    reader = theirs.read(writer.id, "alice", 10**15)
    assert reader.last == 1_000_002
    reader.close()


def test_delete_rejects_a_running_stream_of_another_process(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choreo_wsgi.replay.store._CANCEL_TIMEOUT", 0.0)
    ours, theirs = open_shared(), open_shared()
    writer = create(ours)
    write(writer, 1)
    with pytest.raises(ReplayUnavailable, match="has not ended yet") as caught:
        theirs.delete(writer.id, "alice")
    assert caught.value.retry_after == 1
    assert look(ours, writer.id).last == 1


def test_lost_producers_are_remembered_in_bounded_memory() -> None:
    observer = LeaseObserver(5.0)
    for number in range(20_000):
        observer.lost(str(number), 1)
    assert len(observer._seen) <= 10_001


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_drops_frames_from_the_longest_logs(kind: str, tmp_path: Path) -> None:
    url = "memory:" if kind == "memory" else f"sqlite:{tmp_path / 'replay.db'}"
    store = open_store(url, Settings(replay_stream_bytes=90_000, replay_total_bytes=100_000))
    small, large = create(store), create(store)
    write(small, 1)
    for number in range(1, 160):
        large.append(frames(number, number, "x" * 500), 1, wait=False)
    other = create(store)
    for number in range(1, 60):
        other.append(frames(number, number, "x" * 500), 1, wait=False)
    eventually(lambda: look(store, large.id).first > 1)
    assert look(store, small.id).first == 1
    store.close()


def test_closes_the_database_after_its_watcher(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = open_shared()
    watching, closed, close = threading.Event(), threading.Event(), store._backend.close
    early: list[bool] = []

    def watch(waiting: Any, stop: threading.Event) -> tuple[str, ...]:
        watching.set()
        assert stop.wait(DEADLINE)
        early.append(closed.wait(0.1))
        return ()

    monkeypatch.setattr(store._backend, "wait_for_changes", watch)
    monkeypatch.setattr(store._backend, "close", lambda: (closed.set(), close()))
    store.read(create(store).id, "alice")
    assert watching.wait(DEADLINE)
    store.close()
    assert early == [False] and closed.is_set()
