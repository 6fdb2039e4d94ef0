"""Single operations of the shared backends, and the rows and keys that they leave."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from replay_helpers import (
    DEADLINE,
    RedisServer,
    create,
    eventually,
    frame,
    frames,
    read_all,
    receive,
    write,
)

from choreo_wsgi.errors import ConfigurationError
from choreo_wsgi.replay import Writer, database, open_counts, open_store
from choreo_wsgi.replay.backend import READ_BYTES, Backend, Block, Status, Unreachable, Write
from choreo_wsgi.replay.redis import RedisBackend, connect
from choreo_wsgi.replay.sqlite import SQLiteBackend
from choreo_wsgi.settings import Settings

#: Larger than everything written here.
ROOM = 64 * READ_BYTES
SETTINGS = Settings(replay_ttl_seconds=60, replay_stream_bytes=ROOM, replay_total_bytes=ROOM)


@pytest.fixture
def backend(shared_url: str) -> Iterator[Backend]:
    kind = SQLiteBackend if shared_url.startswith("sqlite:") else RedisBackend
    made = kind(shared_url, SETTINGS)
    yield made
    made.close()


def status_of(backend: Backend, id: str) -> Status:
    found = backend.fetch(id, None)
    assert found is not None
    return found[0]


def test_repeated_write_appends_once(backend: Backend) -> None:
    """The keeper repeats a write whose reply was lost."""
    backend.insert("s", "alice", None, "", "p")
    first = Write("s", "alice", [Block(1, 3, frames(1, 3))], 3, False)
    both = Write("s", "alice", [*first.blocks, Block(4, 4, frame(4))], 4, False)
    assert backend.write("p", [first]) == backend.write("p", [first]) == [True]
    assert backend.write("p", [both, both]) == [True, True]
    found = backend.fetch("s", 0)
    assert found is not None
    assert b"".join(block.data for block in found[1]) == frames(1, 4)
    backend.insert("s", "alice", None, "", "p")  # its reply can be lost too
    assert status_of(backend, "s").last == 4
    ended = Write("s", "alice", [], 4, True)
    assert backend.write("p", [ended]) == backend.write("p", [first]) == [True]
    assert status_of(backend, "s").ended


def test_beat_reports_a_read_once(backend: Backend) -> None:
    backend.insert("s", "alice", None, "", "p")
    backend.mark("s", "read")
    assert [backend.beat("p", ["s"]).read for _ in range(2)] == [["s"], []]


def reports_changes(backend: Backend) -> bool:
    """Wait for changes once; return whether stream *s* may have grown."""
    with contextlib.suppress(Unreachable):
        return list(backend.wait_for_changes(lambda: {"s": 0}, threading.Event())) == ["s"]
    return False


def test_first_wait_reports_all_streams_as_changes_were_missed(backend: Backend) -> None:
    eventually(lambda: reports_changes(backend))


@pytest.mark.parametrize("silently", [False, True])
def test_subscription_is_repeated_after_each_failure(
    request: pytest.FixtureRequest, tmp_path: Path, silently: bool
) -> None:
    """Changes in between were missed, so all streams may have grown."""
    server = RedisServer(tmp_path)
    request.addfinalizer(server.stop)
    backend = RedisBackend(server.url, SETTINGS)
    assert not reports_changes(backend)
    server.start()
    eventually(lambda: reports_changes(backend))
    backend.write("p", [Write("s", "alice", [Block(1, 1, frame(1))], 1, False)])
    assert not reports_changes(backend)  # the readers of this process are woken without it
    with redis.Redis.from_url(server.url) as client:
        if silently:  # as redis-py may find out by itself, and connect again
            backend._subscription.connection.disconnect()
        else:
            assert client.client_kill_filter(_type="pubsub") == 1
    eventually(lambda: reports_changes(backend))
    backend.close()


def test_stream_ended_as_lost_expires(shared_url: str) -> None:
    kind = SQLiteBackend if shared_url.startswith("sqlite:") else RedisBackend
    backend = kind(shared_url, Settings(replay_ttl_seconds=0.05))

    def end_and_expire(id: str) -> None:
        assert backend.insert(id, "alice", "key", "digest", "p") is None
        backend.end(id, status_of(backend, id), Block(1, 1, frame(1)))
        eventually(lambda: backend.fetch(id, None) is None)

    end_and_expire("s")
    end_and_expire("t")  # with the same key, before a sweep
    backend.close()


def test_sqlite_expires_lost_streams_once_and_removes_their_producers(tmp_path: Path) -> None:
    backend = SQLiteBackend(f"sqlite:{tmp_path / 'replay.db'}", SETTINGS)
    backend.insert("s", "alice", None, "", "without a lease")
    backend.insert("t", "alice", None, "", "p")
    for producer in ("p", "idle"):
        backend.beat(producer, [])
    with contextlib.closing(sqlite3.connect(tmp_path / "replay.db")) as db:
        found = []
        for _ in range(2):
            backend.sweep(lambda *_: True)
            found.append(db.execute("SELECT expires FROM stream").fetchall())
        assert found[0] == found[1] and (None,) not in found[0]
        assert db.execute("SELECT id FROM producer").fetchall() == [("p",)]
        backend.end("t", status_of(backend, "t"), Block(1, 1, frame(1)))
        assert db.execute("SELECT size FROM stream WHERE ended").fetchall() == [(len(frame(1)),)]
    backend.close()
    assert open_below(tmp_path) == []


def test_end_requires_an_unchanged_status(backend: Backend) -> None:
    def end(seen: Status, text: str) -> bytes:
        backend.end("s", seen, Block(2, 2, frame(2, text)))
        found = backend.fetch("s", 0)
        assert found is not None
        return b"".join(block.data for block in found[1])

    backend.beat("p", ["s"])
    backend.insert("s", "alice", None, "", "p")
    seen = status_of(backend, "s")
    backend.beat("p", ["s"])  # its producer is alive after all
    assert end(seen, "too early") == b""
    seen = status_of(backend, "s")
    backend.write("p", [Write("s", "alice", [Block(1, 1, frame(1))], 1, False)])
    assert end(seen, "seen before a write") == frame(1)
    seen = status_of(backend, "s")
    assert end(seen, "lost") == end(seen, "again") == frame(1) + frame(2, "lost")
    ended = status_of(backend, "s")
    assert (ended.last, ended.ended, ended.producer) == (2, True, "")
    late = Write("s", "alice", [Block(2, 2, frame(2))], 2, True)
    assert backend.write("p", [late]) == [False]
    assert end(ended, "once more") == frame(1) + frame(2, "lost")


def test_freed_key_can_name_another_stream(backend: Backend) -> None:
    backend.insert("s", "alice", "key", "digest", "p")
    other = ("t", "alice", "key", "digest", "p")
    assert backend.insert(*other) == ("s", "digest")
    backend.free_key("s")
    assert backend.insert(*other) is None
    backend.free_key("s")
    backend.delete("s")
    assert backend.fetch("s", None) is None
    assert backend.insert("u", "alice", "key", "digest", "p") == ("t", "digest")


def test_fetch_returns_at_most_read_bytes(backend: Backend) -> None:
    backend.insert("s", "alice", None, "", "p")
    sizes = [READ_BYTES // 2] * 8
    for number, size in enumerate(sizes, 1):
        block = Block(number, number, b"x" * size)
        backend.write("p", [Write("s", "alice", [block], number, False)])
    after = 0
    while after < len(sizes):
        found = backend.fetch("s", after)
        assert found is not None and 0 < sum(len(one.data) for one in found[1]) <= READ_BYTES
        after = found[1][-1].last


def test_every_redis_key_expires(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the server dies."""
    backend = RedisBackend(shared_redis.url, SETTINGS)
    backend.insert("silent", "alice", "key", "digest", "p")
    backend.beat("p", ["silent"])
    backend.write("p", [Write("silent", "alice", [Block(1, 1, frame(1))], 1, False)])
    backend.mark("silent", "cancelled")
    backend.mark("silent", "read")
    # A second stream is cancelled, and ended as lost.
    backend.insert("lost", "alice", None, "", "q")
    backend.mark("lost", "cancelled")
    backend.end("lost", status_of(backend, "lost"), Block(1, 1, frame(1)))
    open_counts(shared_redis.url)("alice", lambda counts, now: counts.update(n=1))
    with redis.Redis.from_url(shared_redis.url) as client:
        left = {key: client.pttl(key) for key in client.keys("{choreo}:*")}
        assert len(left) >= 7 and min(left.values()) > 0
        assert left[b"{choreo}:s:lost"] <= 60_000 and left[b"{choreo}:f:lost"] <= 60_000
        assert 60_000 < left[b"{choreo}:s:silent"] <= 120_000
        assert 3_600_000 < left[b"{choreo}:limit:alice"] <= 86_400_000
        client.pexpire("{choreo}:s:silent", 9_000)
        monkeypatch.setattr("choreo_wsgi.replay.redis._HOLD_INTERVAL", 0.0)
        backend.beat("p", ["silent"])
        assert client.pttl("{choreo}:s:silent") > 60_000
        backend.write("p", [Write("silent", "alice", [], 1, True)])
        backend.beat("p", ["silent"])  # which does not know yet that it has ended
        assert client.pttl("{choreo}:s:silent") <= 60_000
        backend.release_lease("p")
        assert client.pttl("{choreo}:p:p") > 0
    backend.close()


def test_redis_out_of_memory_raises_unreachable(own_redis: RedisServer) -> None:
    """The reply must not look as if another server had ended the stream."""
    backend = RedisBackend(own_redis.url, SETTINGS)
    backend.insert("s", "alice", None, "", "p")
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        with pytest.raises(Unreachable):
            backend.write("p", [Write("s", "alice", [Block(1, 1, frame(1))], 1, False)])
        client.config_set("maxmemory", 0)
    assert backend.write("p", [Write("s", "alice", [Block(1, 1, frame(1))], 1, False)]) == [True]
    backend.close()


def test_key_is_free_once_redis_evicted_its_stream(shared_redis: RedisServer) -> None:
    backend = RedisBackend(shared_redis.url, SETTINGS)
    assert backend.insert("a", "bob", "key", "d", "p") is None
    assert backend.insert("b", "bob", "key", "d", "p") == ("a", "d")
    with redis.Redis.from_url(shared_redis.url) as client:
        client.delete("{choreo}:s:a")
    assert backend.insert("b", "bob", "key", "d", "p") is None
    assert backend.insert("c", "bob", "key", "d", "p") == ("b", "d")
    backend.close()


def test_repeated_write_replaces_frames_whose_stream_redis_evicted(
    shared_redis: RedisServer,
) -> None:
    backend = RedisBackend(shared_redis.url, SETTINGS)
    written = Write("e", "bob", [Block(1, 3, frames(1, 3))], 3, False)
    with redis.Redis.from_url(shared_redis.url) as client:
        for _ in range(2):
            assert backend.write("p", [written]) == [True]
            client.delete("{choreo}:s:e")
        assert backend.write("p", [written]) == [True]
        found = backend.fetch("e", 0)
        assert found is not None and found[1] == written.blocks
        backend.delete("e")
        assert client.keys("{choreo}:?:e") == []
    backend.close()


def test_counts_use_the_clock_of_redis(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = SimpleNamespace(time=lambda: time.time() + 1e6)
    monkeypatch.setattr("choreo_wsgi.replay.redis.time", ahead)
    now = open_counts(shared_redis.url)("clock", lambda counts, now: now)
    assert abs(now - time.time()) < 1e5


def test_close_ends_all_connections_to_redis(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients: list[Any] = []

    def connect_and_keep(url: str) -> Any:
        clients.append(connect(url))
        return clients[-1]

    monkeypatch.setattr("choreo_wsgi.replay.redis.connect", connect_and_keep)
    store = open_store(own_redis.url, Settings())
    change = open_counts(own_redis.url)
    change("alice", lambda counts, now: None)
    writer = create(store)
    store.read(writer.id, "alice").receive(0)
    with redis.Redis.from_url(own_redis.url) as client:
        assert len(client.client_list()) > 3
        store.close()
        del change
        eventually(lambda: len(client.client_list()) == 1)


def test_redis_gets_sixteen_connections_and_a_second_for_each_step(
    shared_redis: RedisServer,
) -> None:
    """The callers decide when to retry."""
    pool = connect(shared_redis.url).connection_pool
    taken = [pool.get_connection() for _ in range(16)]
    given = {(c.socket_connect_timeout, c.socket_timeout, c.retry.get_retries()) for c in taken}
    assert given == {(1.0, 1.0, 0)} and pool.timeout == 1.0
    pool.timeout = 0.0
    with pytest.raises(redis.ConnectionError):
        pool.get_connection()
    pool.disconnect()


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_opens_redis_and_valkey_urls(scheme: str, shared_redis: RedisServer) -> None:
    url = scheme + shared_redis.url.removeprefix("redis")
    store = open_store(url, Settings())
    writer = create(store)
    sent = write(writer, 3, end=True)
    assert read_all(store.read(writer.id, "alice")) == sent
    store.close()


def first_stream(path: Path) -> Writer:
    """Write a stream of three frames to the file *path*, and close its store."""
    store = open_store(f"sqlite:{path}", Settings())
    writer = create(store, key="k", digest="d")
    sent = write(writer, 3)
    assert receive(store.read(writer.id, "alice"), len(sent)) == sent
    store.close()
    return writer


def test_rejects_a_file_of_a_newer_version(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    writer = first_stream(path)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(ConfigurationError, match="written by a newer version"):
        open_store(f"sqlite:{path}", Settings())
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT id FROM stream").fetchall() == [(writer.id,)]
    db.close()


def test_replaces_the_tables_of_an_older_version(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    first_stream(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE seen (id); CREATE TABLE request (id)")
        db.execute("PRAGMA user_version = 4")
        writer = first_stream(path)
        assert db.execute("SELECT id FROM stream").fetchall() == [(writer.id,)]
        names = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    assert {name for (name,) in names} == {"stream", "block", "producer", "limits"}


def test_schema_is_created_by_one_of_two_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process is faster, after we have found that there is no schema."""
    path = tmp_path / "replay.db"
    others: list[Writer] = []

    class SlowConnection(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if sql == "BEGIN IMMEDIATE" and not others:
                monkeypatch.undo()
                others.append(first_stream(path))
            return super().execute(sql, *values)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=SlowConnection))
    database.connect(path).close()
    with contextlib.closing(open_store(f"sqlite:{path}", Settings())) as store:
        assert receive(store.read(others[0].id, "alice"), 1) == frames(1, 3)


def test_database_is_in_wal_mode_and_waits_for_a_second(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    first_stream(path)
    with contextlib.closing(database.connect(path)) as db:
        names = ("journal_mode", "synchronous", "busy_timeout")
        found = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in names]
    assert found == ["wal", 1, 1000]


def test_sqlite_reads_while_another_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    backend = SQLiteBackend(f"sqlite:{path}", SETTINGS)
    backend.insert("s", "alice", None, "", "p")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert status_of(backend, "s").last == 0
    backend.close()


def test_second_connection_keeps_the_locks_of_the_first(tmp_path: Path) -> None:
    """Without them another process would delete the log that is still in use."""
    path = tmp_path / "replay.db"
    with contextlib.closing(database.connect(path)) as first:
        first.execute("INSERT INTO producer VALUES ('p', 1)")
        database.connect(path).close()
        reading = (
            "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM stream')"
        )
        subprocess.run([sys.executable, "-c", reading, str(path)], check=True)
        assert path.with_name("replay.db-wal").exists()


def test_connect_waits_while_another_process_creates_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process keeps the new file locked until our first attempt has failed."""
    path = tmp_path / "replay.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if other.in_transaction:
            other.execute("ROLLBACK")

    clock = SimpleNamespace(monotonic=lambda: float(len(waited)) / 10, sleep=wait)
    monkeypatch.setattr(database, "time", clock)
    monkeypatch.setattr(database, "_BUSY", 0.5)
    database.connect(path).close()
    assert waited
    other.close()


def test_failed_connections_to_a_file_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "replay.db"
    monkeypatch.setattr(database, "_BUSY", 0.0)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError) as locked:
            database.connect(path)
        other.execute("ROLLBACK")
        other.execute("PRAGMA user_version = 99")
        with pytest.raises(sqlite3.DatabaseError) as newer:
            database.connect(path)
        assert open_below(tmp_path) == ["replay.db"] and newer and locked


def test_locked_file_does_not_stop_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "replay.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with monkeypatch.context() as patch:
            patch.setattr(database, "_BUSY", 0.0)
            store = open_store(f"sqlite:{path}", Settings())
        other.execute("ROLLBACK")
    create(store, key="k")
    store.close()


def open_below(folder: Path) -> list[str]:
    """Return the names of the open files in *folder*."""
    paths = [path.resolve() for path in Path("/proc/self/fd").glob("*")]
    return sorted(path.name for path in paths if path.parent == folder)


def test_log_of_the_database_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    store = open_store(f"sqlite:{path}", Settings(replay_stream_bytes=32_000_000))
    writer = create(store)
    for _ in range(2):
        writer.append(frame(writer.last + 1, "x" * 8_000_000), 1)

    def is_truncated() -> bool:
        write(writer, 1)
        return path.with_name("replay.db-wal").stat().st_size < 2_000_000

    eventually(is_truncated)
    store.close()


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("rediss://127.0.0.1:1/0", redis.SSLConnection),
        ("valkeys://127.0.0.1:1/0", redis.SSLConnection),
        ("unix:///run/redis.sock", redis.UnixDomainSocketConnection),
    ],
)
def test_addresses_may_demand_tls_or_a_unix_socket(url: str, kind: type) -> None:
    backend: Any = open_store(url, Settings())._backend
    assert isinstance(backend._client.connection_pool.make_connection(), kind)


def test_closing_store_does_not_wait_for_a_message(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choreo_wsgi.replay.redis._POLL_SECONDS", 2 * DEADLINE)
    store = open_store(shared_redis.url, Settings())
    reader = store.read(create(store).id, "alice")
    with redis.Redis.from_url(shared_redis.url) as client:
        eventually(lambda: client.pubsub_channels())
    with ThreadPoolExecutor() as pool:
        pool.submit(store.close).result(DEADLINE)
    reader.close()


def test_sqlite_stores_a_large_block_in_parts_and_drops_it_whole(tmp_path: Path) -> None:
    """SQLite holds several copies of a value that it writes."""
    path = tmp_path / "replay.db"
    limit = Settings(replay_stream_bytes=4 * READ_BYTES)
    backend = SQLiteBackend(f"sqlite:{path}", limit)
    backend.insert("s", "alice", None, "", "p")
    large = frame(1, "x" * 3 * READ_BYTES)
    blocks = [Block(1, 1, large), Block(2, 2, frame(2)), Block(3, 3, large)]
    backend.write("p", [Write("s", "alice", blocks[:2], 2, False)])
    found = backend.fetch("s", 0)
    assert found is not None and found[1] == blocks[:1]
    with contextlib.closing(sqlite3.connect(path)) as db:
        (longest,) = db.execute("SELECT max(length(data)) FROM block").fetchone()
        assert longest == READ_BYTES
        backend.write("p", [Write("s", "alice", blocks[2:], 3, True)])
        kept = sum(len(block.data) for block in blocks[1:])
        assert db.execute("SELECT first, size FROM stream").fetchone() == (2, kept)
    backend.close()
