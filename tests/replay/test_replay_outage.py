"""A database that becomes unreachable, loses data, and recovers."""

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
    """A database that a test can make unreachable."""

    url: str

    def outage(self) -> contextlib.AbstractContextManager[None]: ...


class StoppedRedis:
    """Redis is stopped, saves its data, and is started again."""

    def __init__(self, server: RedisServer) -> None:
        self.url = server.url
        self._server = server

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        self._server.stop()
        try:
            yield
        finally:
            self._server.start()


class HangingRedis(StoppedRedis):
    """Redis accepts connections and does not reply."""

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        assert self._server.process is not None
        self._server.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._server.process.send_signal(signal.SIGCONT)


class LockedSQLite:
    """Another process holds a lock on the file."""

    def __init__(self, path: Path) -> None:
        self.url = f"sqlite:{path}"
        self._path = path

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
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
def open_one(database: Database) -> Iterator[Callable[..., Store]]:
    stores: list[Store] = []

    def open_(**settings: int) -> Store:
        stores.append(open_store(database.url, Settings(**settings)))  # type: ignore[arg-type]
        return stores[-1]

    yield open_
    for store in stores:
        store.close()


def is_ended(store: Store, writer: Writer) -> bool:
    """Return whether the store is reachable and has the end of the stream."""
    try:
        return look(store, writer.id).ended
    except (NotFound, ReplayUnavailable):  # not reachable, or not stored yet
        return False


def write_until_noticed(store: Store, writer: Writer) -> None:
    """Append until the store has noticed the outage; each append returns."""
    deadline = time.monotonic() + 10
    while store.reachable:  # type: ignore[attr-defined]
        assert time.monotonic() < deadline
        write(writer, 1)
        time.sleep(0.01)


def test_streams_continue_in_an_outage_and_are_complete_after_it(
    database: Database, open_one: Callable[..., Store]
) -> None:
    store, other = open_one(), open_one()
    writer = create(store)
    write(writer, 10)
    live = other.read(writer.id, "alice")
    assert receive(live, 1) == frames(1, 10)
    with database.outage():
        write_until_noticed(store, writer)
        # Now no append waits for the database.
        before = time.monotonic()
        write(writer, 300)
        assert time.monotonic() - before < 5
        # A stream can begin without a key; with one it might be generated twice.
        buffered = create(store)
        write(buffered, 5)
        with pytest.raises(ReplayUnavailable):
            store.create("alice", key="k", digest="d")
        for call in (partial(look, store), store.read, store.lost):
            with pytest.raises(ReplayUnavailable) as caught:
                call(writer.id, "alice")
            assert caught.value.retry_after
        # A reader receives nothing for a while, and does not fail.
        assert live.receive(0.1) == b""
    write(writer, 5, end=True)
    write(buffered, 5, end=True)
    assert frames(1, 10) + read_all(live) == frames(1, writer.last)
    eventually(lambda: is_ended(store, buffered) and is_ended(store, writer))
    eventually(lambda: is_ended(other, writer))
    assert read_all(other.read(buffered.id, "alice")) == frames(1, 10)
    assert read_all(other.read(writer.id, "alice")) == frames(1, writer.last)


def test_outage_is_not_mistaken_for_a_lost_producer(own_redis: RedisServer) -> None:
    """Though it lasts longer than the lease, which no producer could renew."""
    settings = Settings()
    ours, theirs = (open_store(own_redis.url, settings, lease=1.0, beat=0.1) for _ in range(2))
    writer = create(ours)
    write(writer, 3)
    reader = theirs.read(writer.id, "alice")
    assert receive(reader, 1) == frames(1, 3)
    with ThreadPoolExecutor() as pool:
        rest = pool.submit(read_all, reader)
        with StoppedRedis(own_redis).outage():
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


def test_buffers_of_all_streams_are_bounded(
    database: Database, open_one: Callable[..., Store]
) -> None:
    store = open_one(replay_stream_bytes=20_000, replay_total_bytes=50_000)
    writers = [create(store) for _ in range(6)]
    for writer in writers:
        write(writer, 2)
    with database.outage():
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
    status = look(store, last.id)
    assert status.last == 103 and status.first > 3
    # Reading dropped frames raises StreamGone; those after them are complete.
    with pytest.raises(StreamGone):
        store.read(last.id, "alice", 1)
    kept = read_all(store.read(last.id, "alice", status.first - 1))
    assert kept.startswith(b"id: %d\n" % status.first) and kept.endswith(frame(103))


def test_streams_continue_after_redis_lost_all_data(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import redis

    store, unknown = open_store(own_redis.url, Settings()), "strm_" + "x" * 32
    writer, silent = create(store), create(store)
    write(writer, 10)
    reader = store.read(writer.id, "alice", 10)
    keeper = store._keeper  # type: ignore[attr-defined]
    eventually(lambda: keeper._has_lease)
    with monkeypatch.context() as patch:
        patch.setattr(keeper, "_renew", lambda: None)  # it notices later
        with redis.Redis.from_url(own_redis.url) as client:
            client.flushall()
            client.script_flush()
        with pytest.raises(ReplayUnavailable) as caught:  # another server may insert it again
            look(store, unknown)
        assert caught.value.retry_after == 1
        # The stream continues with the next frames.
        sent = write(writer, 5, end=True)
        eventually(lambda: is_ended(store, writer))
    assert read_all(store.read(writer.id, "alice", 10)) == sent
    assert read_all(reader) == sent
    with pytest.raises(StreamGone):
        store.read(writer.id, "alice", 9)
    silent.append(b"", 0, end=True)
    eventually(lambda: is_ended(store, silent))
    assert read_all(store.read(silent.id, "alice")) == b""
    monkeypatch.setattr("choreo_wsgi.replay.keeper._RESTORE_SECONDS", 0.0)

    def is_unknown() -> bool:
        try:
            return not look(store, unknown)
        except ReplayUnavailable:
            return False
        except NotFound:
            return True

    eventually(is_unknown)
    store.close()


def test_frames_missing_from_a_snapshot_are_a_gap(own_redis: RedisServer) -> None:
    """Frames written after the snapshot are lost, and a read of them raises StreamGone."""
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
    status = look(store, writer.id)
    assert (status.first, status.last) == (21, 30)
    assert read_all(store.read(writer.id, "alice", 20)) == frames(21, 30)
    store.close()


def test_stream_begun_before_redis_starts_is_stored_later(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path)
    request.addfinalizer(server.stop)
    store = open_store(server.url, Settings())
    writer = create(store)
    write(writer, 3, end=True)
    with pytest.raises(ReplayUnavailable):
        store.read(writer.id, "alice")
    server.start()
    eventually(lambda: is_ended(store, writer))
    assert read_all(store.read(writer.id, "alice")) == frames(1, 3)
    store.close()


def test_rejects_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    path.write_bytes(b"this is not a database, " * 100)
    with pytest.raises(ConfigurationError, match="file is not a database"):
        open_store(f"sqlite:{path}", Settings())
    assert path.read_bytes().startswith(b"this is not a database")


def test_database_files_are_private(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    store = open_store(f"sqlite:{path}", Settings())
    write(create(store), 1)
    modes = {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert modes == {0o600}
    store.close()


def test_live_reader_survives_a_redis_restarted_empty(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader is in another replica, which knows the stream only from the database."""
    ours, theirs = (open_store(own_redis.url, Settings()) for _ in range(2))
    writer = create(ours)
    write(writer, 3)
    reader = theirs.read(writer.id, "alice")
    assert receive(reader, 1) == frames(1, 3)
    # A store detects lost data by its own lease, once it has one.
    eventually(lambda: theirs._keeper._has_lease)  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        keeper = ours._keeper  # type: ignore[attr-defined]
        patch.setattr(keeper, "_renew", lambda: None)  # it notices last
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
        # The producer inserts the stream again though it has no new frames.
        eventually(lambda: is_stored(theirs, writer.id))
        sent = write(writer, 2, end=True)
        assert rest.result(DEADLINE) == sent
    ours.close()
    theirs.close()


def is_stored(store: Store, id: str) -> bool:
    try:
        return bool(look(store, id).owner)
    except (NotFound, ReplayUnavailable):
        return False


def test_expiry_ignores_the_wall_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    store = open_store(f"sqlite:{tmp_path / 'replay.db'}", Settings())
    for hours in (2, -2):
        writer = create(store)
        sent = write(writer, 3, end=True)
        monkeypatch.setattr(time, "time", lambda hours=hours: now + hours * 3600)
        store._backend.sweep(lambda *_: False)  # type: ignore[attr-defined]
        assert read_all(store.read(writer.id, "alice")) == sent
    store.close()


def test_streams_from_before_a_reboot_expire(tmp_path: Path) -> None:
    """The monotonic clock restarts, so the times in the file may be far ahead of it."""
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
