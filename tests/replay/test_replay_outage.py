"""A database that goes away and comes back."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
from replay_helpers import (
    DEADLINE,
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

from choreo_wsgi.errors import ConfigurationError, NotFound, ReplayUnavailable, StreamGone
from choreo_wsgi.replay import Store, Writer, open_store
from choreo_wsgi.settings import Settings


class Database(Protocol):
    """A database that can be taken away."""

    url: str

    def away(self) -> contextlib.AbstractContextManager[None]: ...


class StoppedRedis:
    """Redis is ended, its data saved, and started again."""

    def __init__(self, server: RedisServer) -> None:
        self.url = server.url
        self._server = server

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        self._server.stop()
        try:
            yield
        finally:
            self._server.start()


class HangingRedis(StoppedRedis):
    """Redis takes connections and does not answer."""

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        assert self._server.process is not None
        self._server.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._server.process.send_signal(signal.SIGCONT)


class LockedSQLite:
    """Another process holds the file."""

    def __init__(self, path: Path) -> None:
        self.url = f"sqlite:{path}"
        self._path = path

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        other = sqlite3.connect(self._path, timeout=10, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")
            other.close()


@pytest.fixture(params=["stopped", "hanging", "locked"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "locked":
        return LockedSQLite(tmp_path / "replay.db")
    server = request.getfixturevalue("own_redis")
    return StoppedRedis(server) if request.param == "stopped" else HangingRedis(server)


@pytest.fixture
def open_it(database: Database) -> Iterator[Callable[..., Store]]:
    stores: list[Store] = []

    def open_(**settings: int) -> Store:
        stores.append(open_store(database.url, Settings(**settings)))  # type: ignore[arg-type]
        return stores[-1]

    yield open_
    for store in stores:
        store.close()


def is_ended(store: Store, writer: Writer) -> bool:
    """Whether the store is back and has all of a stream."""
    try:
        return look(store, writer.id).ended
    except (NotFound, ReplayUnavailable):  # not back, or not told of the stream yet
        return False


def write_until_noticed(store: Store, writer: Writer) -> None:
    """Append until the store knows that its database is away: each append returns."""
    deadline = time.monotonic() + 10
    while store.reachable:  # type: ignore[attr-defined]
        assert time.monotonic() < deadline
        write(writer, 1)
        time.sleep(0.01)


def test_streams_go_on_and_are_complete_afterwards(
    database: Database, open_it: Callable[..., Store]
) -> None:
    store, other = open_it(), open_it()
    writer = create(store)
    write(writer, 10)
    live = other.read(writer.id, "alice")
    assert receive(live, 1) == frames(1, 10)
    with database.away():
        write_until_noticed(store, writer)
        # Now nothing waits for a database that does not answer.
        before = time.monotonic()
        write(writer, 300)
        assert time.monotonic() - before < 5
        # A stream can even begin, but not with a key: it might be paid for twice.
        begun = create(store)
        write(begun, 5)
        with pytest.raises(ReplayUnavailable):
            store.create("alice", key="k", digest="d")
        for call in (partial(look, store), store.read, store.lost):
            with pytest.raises(ReplayUnavailable) as caught:
                call(writer.id, "alice")
            assert caught.value.retry_after
        # Who is reading hears nothing for a while, and is not cut off.
        assert live.receive(0.1) == b""
    write(writer, 5, end=True)
    write(begun, 5, end=True)
    assert frames(1, 10) + read_all(live) == frames(1, writer.last)
    eventually(lambda: is_ended(store, begun) and is_ended(store, writer))
    eventually(lambda: is_ended(other, writer))
    assert read_all(other.read(begun.id, "alice")) == frames(1, 10)
    assert read_all(other.read(writer.id, "alice")) == frames(1, writer.last)


def test_an_outage_is_not_taken_for_a_lost_producer(own_redis: RedisServer) -> None:
    """Longer than the lease: nobody could renew one."""
    settings = Settings()
    ours, theirs = (open_store(own_redis.url, settings, lease=1.0, beat=0.1) for _ in range(2))
    writer = create(ours)
    write(writer, 3)
    reader = theirs.read(writer.id, "alice")
    assert receive(reader, 1) == frames(1, 3)
    with ThreadPoolExecutor() as pool:
        rest = pool.submit(read_all, reader)
        with StoppedRedis(own_redis).away():
            eventually(lambda: not theirs.reachable and not ours.reachable)
            deadline = time.monotonic() + 1.5
            while time.monotonic() < deadline:
                write(writer, 1)
                time.sleep(0.02)
        eventually(lambda: theirs.reachable)
        assert theirs.lost(writer.id, "alice") is None
        write(writer, 1, end=True)
        assert rest.result(DEADLINE) == frames(4, writer.last)
    ours.close()
    theirs.close()


def test_what_is_buffered_is_bounded(database: Database, open_it: Callable[..., Store]) -> None:
    store = open_it(replay_stream_bytes=20_000, replay_total_bytes=50_000)
    writers = [create(store) for _ in range(6)]
    for writer in writers:
        write(writer, 2)
    with database.away():
        write_until_noticed(store, writers[0])
        for writer in writers:
            for _ in range(100):
                writer.append(frame(writer.last + 1, "x" * 400), 1)
        assert store._keeper.buffered <= 50_000  # type: ignore[attr-defined]
    for writer in writers:
        write(writer, 1, end=True)
    eventually(lambda: store._keeper.buffered == 0)  # type: ignore[attr-defined]
    last = writers[-1]
    eventually(lambda: is_ended(store, last))
    record = look(store, last.id)
    assert record.last == 103 and record.first > 3
    # What was dropped is gone, and said to be; what follows is whole.
    with pytest.raises(StreamGone):
        store.read(last.id, "alice", 1)
    kept = read_all(store.read(last.id, "alice", record.first - 1))
    assert kept.startswith(b"id: %d\n" % record.first) and kept.endswith(frame(103))


def test_a_database_that_forgot_everything(own_redis: RedisServer) -> None:
    import redis

    store = open_store(own_redis.url, Settings())
    writer, silent = create(store), create(store)
    write(writer, 10)
    reader = store.read(writer.id, "alice", 10)
    with redis.Redis.from_url(own_redis.url) as client:
        client.flushall()
        client.script_flush()
    # The stream goes on with what comes now.
    sent = write(writer, 5, end=True)
    eventually(lambda: is_ended(store, writer))
    assert read_all(store.read(writer.id, "alice", 10)) == sent
    assert read_all(reader) == sent
    with pytest.raises(StreamGone):
        store.read(writer.id, "alice", 9)
    silent.finish()
    eventually(lambda: is_ended(store, silent))
    assert read_all(store.read(silent.id, "alice")) == b""
    store.close()


def test_an_older_snapshot_of_the_database(own_redis: RedisServer) -> None:
    """Frames that were saved and then lost are a gap, and never one that goes unnoticed."""
    import redis

    store = open_store(own_redis.url, Settings())
    writer = create(store)
    write(writer, 10)
    with redis.Redis.from_url(own_redis.url) as client:
        client.save()
    write(writer, 10)
    assert own_redis.process is not None
    own_redis.process.kill()
    own_redis.process.wait()
    own_redis.start()
    write(writer, 10, end=True)
    eventually(lambda: is_ended(store, writer))
    record = look(store, writer.id)
    assert (record.first, record.last) == (21, 30)
    assert read_all(store.read(writer.id, "alice", 20)) == frames(21, 30)
    store.close()


def test_a_server_that_was_never_there(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    store = open_store(server.url, Settings())
    writer = create(store)
    write(writer, 3, end=True)
    with pytest.raises(ReplayUnavailable):
        store.read(writer.id, "alice")
    server.start()
    eventually(lambda: is_ended(store, writer))
    assert read_all(store.read(writer.id, "alice")) == frames(1, 3)
    store.close()
    server.stop()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    path.write_bytes(b"this is not a database, " * 100)
    with pytest.raises(ConfigurationError, match="file is not a database"):
        open_store(f"sqlite:{path}", Settings())
    assert path.read_bytes().startswith(b"this is not a database")


def test_the_file_is_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    store = open_store(f"sqlite:{path}", Settings())
    write(create(store), 1)
    modes = {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert modes == {0o600}
    store.close()


def test_a_live_reader_outlives_a_redis_that_comes_back_empty(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is another replica's: it knows of the stream only what the database says."""
    ours, theirs = (open_store(own_redis.url, Settings()) for _ in range(2))
    writer = create(ours)
    write(writer, 3)
    reader = theirs.read(writer.id, "alice")
    assert receive(reader, 1) == frames(1, 3)
    # What a database has lost is told by one's own beat, once there was one.
    eventually(lambda: theirs._keeper._has_lease)  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        keeper = ours._keeper  # type: ignore[attr-defined]
        patch.setattr(keeper, "_renew", lambda: None)  # it is the last to notice
        assert own_redis.process is not None
        own_redis.process.kill()  # nothing is saved
        own_redis.process.wait()
        eventually(lambda: not reader.receive(0.1) and not theirs.reachable)
        own_redis.start()
        eventually(lambda: theirs.reachable)
        reader.wake()  # type: ignore[attr-defined]
        assert reader.receive(0) == b""
    with ThreadPoolExecutor() as pool:
        rest = pool.submit(read_all, reader)
        # The producer makes the stream anew though it has nothing to say.
        eventually(lambda: found(theirs, writer.id))
        sent = write(writer, 2, end=True)
        assert rest.result(DEADLINE) == sent
    ours.close()
    theirs.close()


def found(store: Store, id: str) -> bool:
    try:
        return bool(look(store, id).owner)
    except (NotFound, ReplayUnavailable):
        return False


def test_expiry_is_not_by_the_clock_on_the_wall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    store = open_store(f"sqlite:{tmp_path / 'replay.db'}", Settings())
    for hours in (2, -2):
        writer = create(store)
        sent = write(writer, 3, end=True)
        monkeypatch.setattr(time, "time", lambda hours=hours: now + hours * 3600)
        store._backend.sweep(lambda *_: False)  # type: ignore[attr-defined]
        assert read_all(store.read(writer.id, "alice")) == sent
    store.close()


def test_what_a_machine_kept_from_before_it_was_restarted_expires(tmp_path: Path) -> None:
    """The steady clock begins anew, so that the times in the file may be far ahead of it."""
    path = tmp_path / "replay.db"
    store = open_store(f"sqlite:{path}", Settings())
    writer = create(store)
    write(writer, 3, end=True)
    ahead = time.monotonic() + 1_000_000
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE stream SET expires = ?", (ahead,))
        store._backend.sweep(lambda *_: False)  # type: ignore[attr-defined]
        (expires,) = db.execute("SELECT expires FROM stream").fetchone()
    assert expires <= time.monotonic() + Settings().replay_ttl_seconds
    store.close()
