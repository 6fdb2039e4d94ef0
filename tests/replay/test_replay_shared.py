"""Stores that several processes share."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
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
    read_all,
    receive,
    write,
)

from choreo_wsgi.errors import NotFound, ProducerLost
from choreo_wsgi.replay import Fenced, Lost, Store, open_store
from choreo_wsgi.replay.backend import Block
from choreo_wsgi.settings import Settings

pytestmark = pytest.mark.usefixtures("patient")

#: Seconds: short enough for a test, and several beats.
LEASE = 0.6


@contextlib.contextmanager
def producer(url: str) -> Iterator[subprocess.Popen[str]]:
    """A separate process that writes a stream."""
    script = Path(__file__).parents[1] / "helpers" / "replay_producer.py"
    with subprocess.Popen(
        [sys.executable, str(script), url], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def find_lost(store: Store, id: str, after: int = 0) -> Lost:
    found: list[Lost] = []

    def is_lost() -> bool:
        lost = store.lost(id, "alice", after)
        if lost is not None:
            found.append(lost)
        return bool(found)

    eventually(is_lost)
    return found[0]


def test_reader_of_another_store_receives_each_frame_at_once(open_shared: Opener) -> None:
    ours, theirs = open_shared(), open_shared()
    writer = create(ours)
    reader = theirs.read(writer.id, "alice")
    for number in range(1, 8):
        writer.append(frame(number), 1)
        assert receive(reader, 1) == frame(number)
    writer.append(b"", 0, end=True)
    assert read_all(reader) == b""
    assert read_all(theirs.read(writer.id, "alice", 2)) == frames(3, 7)


def test_append_returns_once_its_frame_is_in_the_log(open_shared: Opener) -> None:
    ours, theirs = open_shared(), open_shared()
    writer = create(ours)
    for number in range(1, 51):
        writer.append(frame(number), 1)
        assert look(theirs, writer.id).last == number
    writer.append(b"", 0, end=True)


def test_ended_stream_outlives_its_process(open_shared: Opener) -> None:
    first = open_shared()
    writer = create(first)
    sent = write(writer, 40, end=True)
    first.close()
    second = open_shared()
    assert read_all(second.read(writer.id, "alice")) == sent
    assert read_all(second.read(writer.id, "alice", 39)) == frame(40)


def test_close_writes_buffered_frames(open_shared: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_shared()
    writer = create(first)
    keeper, real = first._keeper, first._backend.write  # type: ignore[attr-defined]
    writing, closing = threading.Event(), keeper.closing
    blocks: list[Block] = []

    def write_slowly(producer: str, writes: Any) -> Any:
        blocks.extend(block for one in writes for block in one.blocks)
        writing.set()
        assert closing.wait(DEADLINE)
        return real(producer, writes)

    monkeypatch.setattr(first._backend, "write", write_slowly)  # type: ignore[attr-defined]
    writer.append(frame(1), 1, wait=False)
    assert writing.wait(DEADLINE)
    for number in range(2, 500):
        writer.append(frame(number), 1, wait=False)
    writer.append(frame(500), 1, end=True, wait=False)
    first.close()
    assert read_all(open_shared().read(writer.id, "alice")) == frames(1, 500)
    assert b"".join(block.data for block in blocks) == frames(1, 500)  # each is written once


def test_cancel_reaches_a_writer_of_another_process(open_shared: Opener) -> None:
    ours, theirs = open_shared(), open_shared()
    writer, other = create(ours), create(ours)
    theirs.cancel(writer.id, "alice")
    eventually(lambda: writer.cancelled)
    assert not other.cancelled
    writer.append(frame(1), 1, end=True)
    assert read_all(theirs.read(writer.id, "alice")) == frame(1)


def test_writer_notices_a_reader_of_another_process(open_shared: Opener) -> None:
    ours, theirs = open_shared(), open_shared()
    writer = create(ours)
    made = writer.last_read
    reader = theirs.read(writer.id, "alice")
    reader.receive(0)
    eventually(lambda: writer.last_read > made)
    reader.close()


def test_key_makes_one_stream_for_all_processes(open_shared: Opener) -> None:
    stores = [open_shared() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        claims = list(pool.map(lambda s: s.create("alice", key="k", digest="d"), stores))
    assert len({claim.id for claim in claims}) == 1
    assert sum(claim.writer is not None for claim in claims) == 1


def test_stream_of_a_killed_producer_is_lost_and_can_be_ended(
    open_shared: Opener, shared_url: str
) -> None:
    reading = open_shared(lease=LEASE)
    with producer(shared_url) as process:
        id = read_line(process)
        reader = reading.read(id, "alice")
        received = receive(reader, 2000)
        process.kill()
        assert process.stdout is not None
        printed = int(process.stdout.read().split()[-1])
    with pytest.raises(ProducerLost):
        while True:
            received += receive(reader, 1)
    # All frames that the process has reported are in the log.
    assert received == frames(1, reader.last)
    assert reader.last >= printed
    # Later readers get the same, also from a number beyond the end.
    for after in (3, reader.last, reader.last + 7):
        late = reading.read(id, "alice", after)
        if after == 3:
            assert late.receive(0) == frames(4, reader.last)
        with pytest.raises(ProducerLost):
            receive(late, 1)
    lost = find_lost(reading, id)
    assert lost.last == reader.last
    error = frame(lost.last + 1, "lost")
    lost.end(error, 1)
    assert reading.lost(id, "alice") is None
    assert read_all(reader) == error
    assert read_all(open_shared().read(id, "alice")) == received + error


def test_a_closed_producer_is_lost_at_once(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs, other = (open_shared() for _ in range(3))  # with the default lease of 5 s
    backend = theirs._backend  # type: ignore[attr-defined]
    monkeypatch.setattr(backend, "wait_for_changes", lambda _, stop: stop.wait(DEADLINE) and ())
    theirs._keeper.recheck = other._keeper.recheck = 1000.0
    writer = create(ours)
    write(writer, 2)
    waiting = [other.read(writer.id, "alice", 2)]
    assert waiting[0].receive(0) == b""
    write(writer, 1)
    assert waiting[0].receive(DEADLINE) == frame(3)  # its subscription has begun
    reader = theirs.read(writer.id, "alice")
    assert receive(reader, len(frames(1, 3))) == frames(1, 3)
    waiting.append(theirs.read(writer.id, "alice", 3))
    assert waiting[1].receive(0) == b""
    ours.close()
    reader.wake()
    for _ in range(2):  # without waiting for the next poll
        with pytest.raises(ProducerLost):
            reader.receive(0)
    lost = theirs.lost(writer.id, "alice")
    assert lost is not None and lost.last == 3
    with pytest.raises(ValueError, match="from number 4"):
        lost.end(frame(5), 1)
    lost.end(frame(4), 1)
    for one in waiting:
        assert one.receive(DEADLINE) == frame(4)
        one.close()
    assert read_all(reader) == frame(4)


def test_one_of_several_ends_a_lost_stream_and_fences_its_writer(
    open_shared: Opener, shared_url: str
) -> None:
    others = [open_shared(lease=LEASE) for _ in range(3)]
    with producer(shared_url) as process:
        id = read_line(process)
        assert read_line(process) == "1"
        process.send_signal(signal.SIGSTOP)

        all_know = threading.Barrier(3)

        def attempt(name: str, store: Store) -> None:
            reader = store.read(id, "alice")
            with pytest.raises(ProducerLost):
                while True:
                    receive(reader, 1)
            reader.close()
            lost = store.lost(id, "alice")
            all_know.wait()
            assert lost is not None
            lost.end(frame(lost.last + 1, name), 1)

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(attempt, "abc", others))
        log = read_all(others[0].read(id, "alice"))
        process.send_signal(signal.SIGCONT)
        while read_line(process) != "fenced":
            pass
    count = log.count(b"\n\n")
    assert log in [frames(1, count - 1) + frame(count, name) for name in "abc"]
    for store in others:
        assert read_all(store.read(id, "alice")) == log


def test_fenced_writer_stops_waiting_and_is_forgotten(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choreo_wsgi.replay.writer._APPEND_TIMEOUT", 1e6)
    ours, theirs = open_shared(), open_shared()
    writer = create(ours)
    write(writer, 1)

    def end() -> bool:
        seen = look(theirs, writer.id)
        theirs._backend.end(writer.id, seen, Block(2, 2, frame(2)))  # type: ignore[attr-defined]
        return bool(look(theirs, writer.id).ended)

    eventually(end)  # if there was no beat in between
    with pytest.raises(Fenced):
        write(writer, 1)
    assert writer.id not in ours._keeper.writers


def test_cancelled_stream_stays_cancelled_when_it_is_lost(open_shared: Opener) -> None:
    ours, theirs = open_shared(), open_shared()
    writer = create(ours)
    write(writer, 1)
    ours.close()
    theirs.cancel(writer.id, "alice")
    assert find_lost(theirs, writer.id).cancelled


def test_frames_that_a_lost_log_never_received_leave_a_gap(open_shared: Opener) -> None:
    ours, theirs = open_shared(), open_shared()
    writer = create(ours)
    write(writer, 3)
    ahead = theirs.read(writer.id, "alice", 5)
    ours.close()
    with pytest.raises(ProducerLost):
        receive(ahead, 1)
    lost = find_lost(theirs, writer.id, 10**15)
    assert lost.last <= 3 + 10**6  # a client must not use up the numbers
    lost = find_lost(theirs, writer.id, 5)
    assert lost.last == 5
    lost.end(frame(6, "lost"), 1)
    assert read_all(ahead) == frame(6, "lost")
    for after in (0, 3, 4, 5):
        expected = frames(after + 1, 3) + frame(6, "lost")
        assert read_all(theirs.read(writer.id, "alice", after)) == expected


def test_reader_ahead_of_a_lost_stream_receives_its_end(open_shared: Opener) -> None:
    ours, theirs = open_shared(), open_shared()
    writer = create(ours)
    write(writer, 3)
    ahead = theirs.read(writer.id, "alice", 5)
    assert ahead.receive(0) == b""
    ours.close()
    # Another reader, who has only the frames of the log, ends it first.
    find_lost(theirs, writer.id, 3).end(frame(4, "lost"), 1)
    assert read_all(ahead) == frame(4, "lost")


def test_silent_stream_lives_as_long_as_its_producer(open_shared: Opener) -> None:
    ours, theirs = open_shared(replay_ttl_seconds=0.2), open_shared(replay_ttl_seconds=0.2)
    writer, ended = create(ours), create(theirs)
    write(writer, 1)
    write(ended, 1, end=True)
    eventually(lambda: not exists(theirs, ended.id))
    assert exists(theirs, writer.id)
    assert write(writer, 1) == frame(2)


def test_a_lost_stream_expires(tmp_path: Path) -> None:
    """Tested with SQLite only, as Redis takes a minute more."""
    settings = Settings(replay_ttl_seconds=0.3)
    ours = open_store(f"sqlite:{tmp_path / 'r'}", settings)
    theirs = open_store(f"sqlite:{tmp_path / 'r'}", settings)
    writer = create(ours)
    ours.close()
    eventually(lambda: not exists(theirs, writer.id))
    theirs.close()


def exists(store: Store, id: str) -> bool:
    try:
        look(store, id)
    except NotFound:
        return False
    return True


def test_delete_waits_for_the_end_in_another_process(open_shared: Opener) -> None:
    ours, theirs = open_shared(), open_shared()
    writer = create(ours)
    write(writer, 2)
    theirs.cancel(writer.id, "alice")
    with ThreadPoolExecutor() as pool:
        deleting = pool.submit(theirs.delete, writer.id, "alice")
        eventually(lambda: writer.cancelled)
        writer.append(frame(3), 1, end=True)
        deleting.result(DEADLINE)
    with pytest.raises(NotFound):
        ours.read(writer.id, "alice")


@pytest.mark.parametrize("how", ["append", "finish", "delete"])
def test_reader_is_woken_by_another_process(open_shared: Opener, shared_url: str, how: str) -> None:
    """At once, not at its next poll, which is every two seconds."""
    ours, theirs = open_shared(), open_shared()
    notified = how != "delete" or shared_url.startswith("sqlite")  # Redis publishes only writes
    ours._keeper.recheck = 1000.0 if notified else 0.05  # type: ignore[attr-defined]
    writer = theirs.create("alice").writer
    assert writer is not None
    writer.append(frame(1), 1)
    reader = ours.read(writer.id, "alice")
    assert receive(reader, 1) == frame(1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(reader.receive, 2 * DEADLINE)
        if how == "append":
            writer.append(frame(2), 1)
            assert waiting.result(DEADLINE) == frame(2)
        elif how == "finish":
            writer.append(b"", 0, end=True)
            assert waiting.result(DEADLINE) == b"" and reader.ended
        else:
            theirs.delete(writer.id, "alice")
            with pytest.raises(NotFound):
                waiting.result(DEADLINE)
    reader.close()
