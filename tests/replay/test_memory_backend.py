"""How much memory the memory backend takes, and what it drops."""

from __future__ import annotations

import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

import pytest
from replay_helpers import create, eventually, frame, frames, in_memory, look, read_all, size_of
from work import traced

from choreo_wsgi.errors import ConfigurationError, NotFound
from choreo_wsgi.replay import open_store
from choreo_wsgi.replay.backend import READ_BYTES, Write
from choreo_wsgi.settings import Settings


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("count", [40, 1000])
def test_two_thousand_unread_streams_stay_within_the_budget(count: int) -> None:
    """Streams of 10 KB or 280 KB each; the budget is 128 MiB."""
    budget = 128 * 1024 * 1024
    script = Path(__file__).parents[1] / "helpers" / "replay_crowd.py"
    run = subprocess.run(
        [sys.executable, str(script), "2000", str(count), str(budget)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    after, peak, most, left = map(float, run.stdout.split())
    assert left == 0
    assert after < 150
    assert most <= budget
    # The store counts about as many bytes as the process takes.
    assert peak < 1.3 * most / 1024 / 1024 + 20


@pytest.mark.parametrize(("key", "frames"), [("", 0), ("k" * 8000, 1)])
def test_counted_bytes_match_allocated_bytes(key: str, frames: int) -> None:
    """So many tiny logs are bounded as well as few long ones."""
    count = 500
    store = in_memory(ttl=60, stream_bytes=1_000_000, total_bytes=1_000_000_000)
    with traced() as memory:
        for number in range(count):
            named = f"{key}{number:05}" if key else None
            writer = create(store, key=named, digest=f"{number:064}")
            for last in range(1, frames + 1):
                writer.append(frame(last, "x" * 100), 1, end=last == frames)
        taken = memory.now
    assert 0.8 * taken < size_of(store) < 2.2 * taken
    store.close()


def test_long_frame_behind_a_short_one_is_not_copied() -> None:
    store = in_memory(ttl=60, stream_bytes=4_000_000, total_bytes=10_000_000)
    writer = create(store)
    long = b"id: 2\ndata: %b\n\n" % (b"x" * 2_000_000)
    with traced() as memory:
        writer.append(frame(1), 1)
        writer.append(long, 1)
        writer.append(frame(3), 1, end=True)
    assert memory.peak < 100_000
    assert read_all(store.read(writer.id, "alice")) == frame(1) + long + frame(3)
    store.close()


def test_counted_bytes_return_to_zero() -> None:
    store = in_memory(ttl=60, stream_bytes=4096, total_bytes=400_000)
    writers = [store.create("alice", key=str(n), digest="d").writer for n in range(100)]
    for writer in writers:
        assert writer is not None
        for number in range(1, 31):
            writer.append(frame(number, "x" * 100), 1)
            assert size_of(store) <= 400_000
        writer.append(b"", 0, end=True)
    for writer in writers:
        assert writer is not None
        writer.discard()
    assert size_of(store) == 0
    assert store.create("alice", key="1", digest="other").writer is not None
    store.close()
    assert size_of(store) == 0


def test_reader_keeps_up_while_old_frames_are_dropped() -> None:
    store = in_memory(ttl=60, stream_bytes=1024, total_bytes=1_000_000)
    writer = create(store)
    reader = store.read(writer.id, "alice")
    assert "choreo-replay-watcher" not in {thread.name for thread in threading.enumerate()}
    got = b""
    for number in range(1, 200):
        writer.append(frame(number), 1, wait=False)
        got += reader.receive(0)
        assert got.endswith(frame(number))
    writer.append(b"", 0, end=True)
    assert got + read_all(reader) == frames(1, 199)
    store.close()


def test_expired_stream_is_not_found_before_it_is_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("choreo_wsgi.replay.keeper._SWEEP_INTERVAL", 1e9)
    store = in_memory(ttl=0.05, stream_bytes=1024, total_bytes=1_000_000)
    writer = create(store, key="k")
    writer.append(b"", 0, end=True)

    def is_gone() -> bool:
        try:
            look(store, writer.id)
        except NotFound:
            return True
        return False

    eventually(is_gone)
    assert size_of(store) > 0
    assert create(store, key="k").id != writer.id
    store.close()


def test_replay_is_read_in_parts() -> None:
    store = in_memory(ttl=60, stream_bytes=16 * READ_BYTES, total_bytes=64 * READ_BYTES)
    writer = create(store)
    while writer.last * 1000 < 4 * READ_BYTES:
        writer.append(frame(writer.last + 1, "x" * 1000), 1)
    writer.append(b"", 0, end=True)
    reader = store.read(writer.id, "alice")
    got = b""
    while not reader.ended:
        part = reader.receive(0)
        assert len(part) < 2 * READ_BYTES
        got += part
    assert got == frames(1, writer.last, "x" * 1000)
    store.close()


@pytest.mark.parametrize(
    "url",
    [
        "memory",
        "memory:x",
        "disk:/tmp",
        "sqlite:",
        "sqlite:/no/such/dir/file",
        "sqlite:/",
        "sqlite://tmp/replay.db",
        "redis://host:port",
        "redis://host/name",
    ],
)
def test_rejects_invalid_urls(url: str) -> None:
    with pytest.raises(ConfigurationError, match="replay: "):
        open_store(url, Settings())


@pytest.mark.parametrize("word", ["memory", "sqlite", "redis"])
def test_error_of_word_without_colon_names_the_forms(word: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{word}' is not memory:, sqlite:PATH or redis"):
        open_store(word, Settings())


def test_error_hides_the_password() -> None:
    for url in ("redis://:secret@host:port", "reddis://:secret@host", "redis://choreo:secret"):
        with pytest.raises(ConfigurationError) as caught:
            open_store(url, Settings())
        assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_failed_write_is_repeated_only_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the keeper repeated it too, meanwhile, the log would have its frames twice."""
    store = in_memory(ttl=60, stream_bytes=10_000, total_bytes=100_000)
    writer, write = create(store), store._backend.write
    failures: list[Sequence[Write]] = []

    def fail_once(producer: str, writes: Sequence[Write]) -> list[bool]:
        if not failures:
            failures.append(writes)
            raise MemoryError
        return write(producer, writes)

    monkeypatch.setattr(store._backend, "write", fail_once)
    with pytest.raises(MemoryError):
        writer.append(frame(1), 1)
    assert not store._keeper._dirty
    writer.append(frame(2), 1, end=True)
    assert read_all(store.read(writer.id, "alice")) == frames(1, 2)
    store.close()
