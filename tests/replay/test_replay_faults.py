"""Failures inside a shared store, and of its database."""

from __future__ import annotations

import contextlib
import os
import resource
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from replay_helpers import (
    DEADLINE,
    Opener,
    RedisServer,
    create,
    eventually,
    frame,
    frames,
    look,
    read_all,
    receive,
    write,
)

from choreo_wsgi.errors import NotFound, ReplayUnavailable, StreamGone
from choreo_wsgi.replay import Fenced, Store, open_store
from choreo_wsgi.replay.backend import Unreachable, Write
from choreo_wsgi.replay.database import Database
from choreo_wsgi.settings import Settings


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Another process's connection to the file ``replay.db``."""
    other = sqlite3.connect(tmp_path / "replay.db", timeout=10, isolation_level=None)
    yield other
    other.close()


def test_keeper_survives_a_bug(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_shared()
    backend = store._backend  # type: ignore[attr-defined]
    real = backend.write
    failures = [KeyError("a bug")]

    def faulty(producer: str, writes: Sequence[Write]) -> Any:
        if failures:
            raise failures.pop()
        return real(producer, writes)

    monkeypatch.setattr(backend, "write", faulty)
    writer = create(store)
    sent = frames(1, 5)
    # No further append wakes the keeper.
    writer.append(sent, 5, end=True, wait=False)

    def replayed() -> bool:
        try:
            return look(store, writer.id).ended
        except ReplayUnavailable:
            return False

    eventually(replayed)
    assert read_all(store.read(writer.id, "alice")) == sent
    assert "KeyError" in caplog.text


def test_unknown_stream_is_not_found_before_the_first_beat(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_shared()
    monkeypatch.setattr(store._keeper, "_renew", lambda: None)
    with pytest.raises(NotFound):
        look(store, "strm_" + "x" * 32)


def test_deletes_a_stream_whose_insertion_got_no_reply(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its key would join later requests to a stream that nobody writes."""
    store = open_shared()
    backend = store._backend  # type: ignore[attr-defined]
    real = backend.insert

    def lost(*arguments: Any) -> Any:
        real(*arguments)
        raise Unreachable("the reply was lost")

    with monkeypatch.context() as patch:
        patch.setattr(backend, "insert", lost)
        with pytest.raises(ReplayUnavailable):
            store.create("alice", key="k", digest="d")
    eventually(lambda: makes_a_stream(store))


def test_deletes_a_stream_that_fails_while_others_are_deleted(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = open_shared()
    writers = [create(store) for _ in range(2)]
    real = store._backend.delete

    def delete(id: str) -> None:
        real(id)
        if id == writers[0].id:
            store._keeper.delete_later(writers[1].id)

    monkeypatch.setattr(store._backend, "delete", delete)
    store._keeper.delete_later(writers[0].id)
    eventually(lambda: all(store._backend.fetch(writer.id, None) is None for writer in writers))


def test_lease_is_renewed_between_two_of_many_deletions(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = open_shared()
    ids = [create(store).id for _ in range(3)]
    called: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        real = getattr(store._backend, name)
        return lambda *given: (called.append(name), real(*given))[1]

    for name in ("beat", "delete"):
        monkeypatch.setattr(store._backend, name, noted(name))
    monkeypatch.setattr(store._keeper, "beat", 0.0)  # as if each took longer than that
    for id in ids:
        store._keeper.delete_later(id)
    eventually(lambda: called.count("delete") == 3)
    assert "delete delete" not in " ".join(called)


def test_request_refused_in_an_outage_leaves_nothing_to_delete(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be thousands, and none of them reached the store."""
    store: Any = open_shared()
    create(store)
    with monkeypatch.context() as patch:
        for name in ("beat", "insert"):
            patch.setattr(store._backend, name, raise_unreachable)
        eventually(lambda: not store.reachable)
        with pytest.raises(ReplayUnavailable):
            store.create("alice", key="k", digest="d")
        assert not store._keeper._to_delete


def raise_unreachable(*_: Any) -> Any:
    raise Unreachable("it is away")


def makes_a_stream(store: Store) -> bool:
    """Return whether the key makes a new stream: it names none, and the store is reachable."""
    try:
        return store.create("alice", key="k", digest="d").writer is not None
    except ReplayUnavailable:
        return False


def test_failure_in_an_outage_frees_the_key_after_it(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(id: str) -> None:
        raise Unreachable("the outage has just begun")

    store = open_shared()
    writer = create(store, key="k", digest="d")
    with monkeypatch.context() as patch:
        patch.setattr(store._backend, "free_key", fail)  # type: ignore[attr-defined]
        writer.fail(frame(1), 1)
    eventually(lambda: makes_a_stream(store))


def test_keeper_ignores_marks_of_ended_streams(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_shared(lease=5.0)
    create(store)
    backend = store._backend  # type: ignore[attr-defined]
    real = backend.beat
    for ids in ({"cancelled": ["ended"]}, {"read": ["ended"]}):
        done = threading.Event()

        def beat(*arguments: Any, ids: Any = ids, done: Any = done) -> Any:
            done.set()
            return real(*arguments)._replace(**ids)

        monkeypatch.setattr(backend, "beat", beat)
        assert done.wait(DEADLINE)
    store.close()
    assert "failed" not in caplog.text


def test_buffer_of_one_stream_is_bounded(tmp_path: Path, lock: sqlite3.Connection) -> None:
    store = open_store(f"sqlite:{tmp_path / 'replay.db'}", Settings(replay_stream_bytes=20_000))
    writer = create(store)
    write(writer, 1)
    lock.execute("BEGIN EXCLUSIVE")
    for _ in range(200):
        writer.append(frame(writer.last + 1, "x" * 400), 1, wait=False)
        assert store._keeper.buffered <= 20_000  # type: ignore[attr-defined]
    lock.execute("ROLLBACK")
    store.close()


@pytest.mark.parametrize("later", [0, 2])
def test_frames_evicted_by_redis_raise_stream_gone(later: int, shared_redis: RedisServer) -> None:
    """``maxmemory`` may evict a stream's blocks but not its status."""
    import redis

    store, other = (open_store(shared_redis.url, Settings()) for _ in range(2))
    writer = create(store)
    write(writer, 3)
    eventually(lambda: look(other, writer.id).last == 3)
    with redis.Redis.from_url(shared_redis.url) as client:
        assert client.delete("{choreo}:f:" + writer.id) == 1
    write(writer, later)
    eventually(lambda: look(other, writer.id).last == 3 + later)
    with pytest.raises(StreamGone):
        receive(other.read(writer.id, "alice"), 1)
    store.close()
    other.close()


@pytest.mark.parametrize("emptied", [False, True])
def test_deleted_or_emptied_file_is_created_again(tmp_path: Path, emptied: bool) -> None:
    """Frames written to the old file would not be found by other processes."""
    path = tmp_path / "replay.db"
    ours, theirs = (open_store(f"sqlite:{path}", Settings()) for _ in range(2))
    writer = create(ours)
    write(writer, 3)
    assert receive(ours.read(writer.id, "alice"), 1) == frames(1, 3)
    for file in [path] if emptied else list(tmp_path.iterdir()):
        os.truncate(file, 0) if emptied else file.unlink()
    writer.append(frame(4), 1, wait=False)

    def is_filled() -> bool:
        with contextlib.suppress(FileNotFoundError):  # it is being created again
            return path.stat().st_size > 0
        return False

    eventually(is_filled)
    writer.append(frame(5), 1, end=True, wait=False)

    def found(store: Store) -> bool:
        try:
            return bool(look(store, writer.id).ended)
        except (NotFound, ReplayUnavailable):
            return False

    for store in (ours, theirs):
        eventually(lambda store=store: found(store))
        kept = read_all(store.read(writer.id, "alice", look(store, writer.id).first - 1))
        assert kept and frames(1, 5).endswith(kept)
        store.close()


def test_close_ends_while_frames_are_appended_and_the_lease_is_stuck(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("choreo_wsgi.replay.keeper._CLOSE_TIMEOUT", 0.05)
    store = open_shared()
    writer = create(store)
    backend = store._backend  # type: ignore[attr-defined]
    real = backend.write

    def write_and_append(*arguments: Any) -> Any:
        writer.append(frame(writer.last + 1), 1, wait=False)
        return real(*arguments)

    def fail(producer: str) -> None:
        raise Unreachable("the lease is stuck")

    monkeypatch.setattr(backend, "write", write_and_append)
    monkeypatch.setattr(backend, "release_lease", fail)
    writer.append(frame(1), 1, wait=False)
    store.close()
    assert "cannot be reached: the lease is stuck" in caplog.text


def test_watcher_survives_a_bug(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = open_shared(), open_shared()
    backend = theirs._backend  # type: ignore[attr-defined]
    real = backend.wait_for_changes
    failures = [KeyError("a bug")]

    def faulty(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(*arguments)

    monkeypatch.setattr(backend, "wait_for_changes", faulty)
    # No reader polls without being woken.
    monkeypatch.setattr(theirs._keeper, "recheck", 2 * DEADLINE)  # type: ignore[attr-defined]
    writer = create(ours)
    reader = theirs.read(writer.id, "alice")
    assert reader.receive(0) == b""
    eventually(lambda: "KeyError" in caplog.text)
    sent = write(writer, 1)
    assert receive(reader, 1) == sent


def test_reader_fails_in_a_long_outage(
    tmp_path: Path, lock: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choreo_wsgi.replay.reader._MAX_OUTAGE", 0.0)
    ours, theirs = (open_store(f"sqlite:{tmp_path / 'replay.db'}", Settings()) for _ in range(2))
    writer = create(ours)
    sent = write(writer, 1)
    reader = theirs.read(writer.id, "alice")
    assert receive(reader, 1) == sent
    theirs._keeper._mark_unreachable(Unreachable("it is away"))  # type: ignore[attr-defined]
    lock.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ReplayUnavailable) as caught:
        receive(reader, 1)
    assert caught.value.retry_after == 5
    lock.execute("ROLLBACK")
    theirs.close()
    ours.close()


def test_cancel_reaches_an_own_writer_in_an_outage(open_any: Opener) -> None:
    store = open_any()
    writer = create(store)
    store._keeper.reachable = False
    store.cancel(writer.id, "alice")
    assert writer.cancelled


def test_short_outages_do_not_add_up(open_any: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader fails only in a long outage, so not at its first query in any of them."""
    monkeypatch.setattr("choreo_wsgi.replay.reader._MAX_OUTAGE", 0.0)
    store = open_any()
    writer = create(store)
    reader = store.read(writer.id, "alice")
    for number in range(1, 4):
        sent = frame(number)
        writer.append(sent, 1)
        assert receive(reader, 1) == sent
        store._keeper.reachable = False
        reader.wake()
        assert reader.receive(0) == b""
        store._keeper.reachable = True
    reader.close()


def test_leases_do_not_run_out_in_an_outage(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the database is away no producer can renew its lease."""
    ours, theirs = open_shared(), open_shared()
    writer = create(ours)
    sent = write(writer, 1)
    reader = theirs.read(writer.id, "alice")
    assert receive(reader, 1) == sent

    def away(*_: Any) -> Any:
        raise Unreachable("it is away")

    monkeypatch.setattr(ours._backend, "beat", away)  # type: ignore[attr-defined]
    eventually(lambda: not ours.reachable)  # type: ignore[attr-defined]
    with pytest.raises(ReplayUnavailable):  # at once, without another query
        ours._keeper.query(lambda: pytest.fail("queried"))  # type: ignore[attr-defined]
    reader.wake()  # type: ignore[attr-defined]
    assert reader.receive(0) == b""  # now the beat of its producer is known
    keeper = theirs._keeper  # type: ignore[attr-defined]
    monkeypatch.setattr(keeper._observer, "_clock", lambda: time.monotonic() + 100)
    keeper._mark_unreachable(Unreachable("it is away"))
    eventually(lambda: keeper.reachable)
    reader.wake()  # type: ignore[attr-defined]
    assert reader.receive(0) == b""
    eventually(lambda: "the replay store is back" in caplog.text)
    assert "the replay store cannot be reached: it is away" in caplog.text


def test_deletes_a_stream_whose_producer_is_lost(open_shared: Opener) -> None:
    ours, theirs = open_shared(), open_shared()
    writer = create(ours)
    write(writer, 2)
    ours.close()
    theirs.delete(writer.id, "alice")
    with pytest.raises(NotFound):
        theirs.read(writer.id, "alice")


@pytest.mark.parametrize("has_reply", [True, False])
def test_delete_wins_over_a_concurrent_write(
    has_reply: bool, open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_shared()
    backend = store._backend  # type: ignore[attr-defined]
    real = backend.write
    writer = create(store)
    written = threading.Event()

    def late(*arguments: Any) -> Any:
        store.delete(writer.id, "alice")
        done = real(*arguments)
        written.set()
        if not has_reply:
            raise Unreachable("the reply was lost")
        return done

    monkeypatch.setattr(backend, "write", late)
    writer.append(frame(1), 1, wait=False)
    assert written.wait(DEADLINE)

    def there() -> bool:
        try:
            return bool(look(store, writer.id))
        except NotFound:
            return False
        except ReplayUnavailable:
            return True

    eventually(lambda: not there())
    with pytest.raises(Fenced):
        writer.append(frame(2), 1)


def test_append_without_waiting_raises_fenced(open_shared: Opener) -> None:
    store = open_shared()
    writer = create(store)
    write(writer, 1)
    store.delete(writer.id, "alice")
    with pytest.raises(Fenced):
        writer.append(frame(2), 1, wait=False)


def test_transactions_succeed_again_after_the_log_has_filled_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    open_store(f"sqlite:{path}", Settings()).close()
    file, reader = Database(path), Database(path, "BEGIN")  # the log is kept while one is open

    def replace() -> None:
        with file.transaction() as db:
            db.execute("REPLACE INTO limits VALUES ('k', ?)", ("x" * 100_000,))

    with reader.transaction() as db:
        db.execute("SELECT * FROM limits").fetchall()
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, most))
    try:
        with pytest.raises(Unreachable, match="disk"):
            for _ in range(20):
                replace()
        replace()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
    file.close()
    reader.close()


def test_failed_transaction_leaves_no_row_and_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    open_store(f"sqlite:{path}", Settings()).close()
    first, second = Database(path), Database(path)
    with pytest.raises(ZeroDivisionError), first.transaction() as db:
        db.execute("INSERT INTO producer VALUES ('p', 1)")
        raise ZeroDivisionError
    for database in (second, first):
        with database.transaction() as db:
            assert db.execute("SELECT count(*) FROM producer").fetchone() == (0,)
        database.close()
