"""The behaviour that all backends share."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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

from choreo_wsgi import sse
from choreo_wsgi.errors import IdempotencyConflict, NotFound, ReplayUnavailable, StreamGone
from choreo_wsgi.replay import Fenced, Store, Writer, open_store
from choreo_wsgi.replay.backend import READ_BYTES
from choreo_wsgi.settings import Settings

pytestmark = pytest.mark.usefixtures("patient")


def test_a_finished_stream_replays_identically(store: Store) -> None:
    writer = create(store)
    sent = write(writer, 20)
    done = sse.number(sse.frame(b"[DONE]"), 21)[0]
    writer.append(done, 1, end=True)
    assert writer.ended
    assert read_all(store.read(writer.id, "alice")) == sent + done
    assert read_all(store.read(writer.id, "alice")) == sent + done


def test_resumes_after_every_frame_of_a_block(store: Store) -> None:
    writer = create(store)
    writer.append(frames(1, 12), 12)
    writer.append(frames(13, 14), 2, end=True)
    for after in range(15):
        assert read_all(store.read(writer.id, "alice", after)) == frames(after + 1, 14)


def test_reader_receives_a_frame_before_the_next_is_appended(store: Store) -> None:
    writer = create(store)
    reader = store.read(writer.id, "alice")
    for number in range(1, 6):
        writer.append(frame(number), 1)
        assert receive(reader, 1) == frame(number)
        assert reader.last == number
    writer.append(b"", 0, end=True)
    assert read_all(reader) == b""


def test_append_and_finish_wake_a_waiting_reader(store: Store) -> None:
    writer = create(store)
    reader = store.read(writer.id, "alice")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(reader.receive, 2 * DEADLINE)
        writer.append(frame(1), 1)
        assert waiting.result(DEADLINE) == frame(1)
        # The end wakes it too, though there are no frames.
        waiting = pool.submit(read_all, reader)
        writer.append(b"", 0, end=True)
        assert waiting.result(DEADLINE) == b""


def test_reads_more_than_read_bytes_without_being_woken(store: Store) -> None:
    writer = create(store)
    text = "x" * (READ_BYTES // 4)
    sent = write(writer, 10, end=True, text=text)
    assert read_all(store.read(writer.id, "alice")) == sent


def test_frame_appended_during_a_query_wakes_its_reader(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = create(store)
    reader = store.read(writer.id, "alice")
    backend: Any = store._backend
    real = backend.fetch

    def fetch_slowly(id: str, after: int | None) -> Any:
        found = real(id, after)
        writer.append(frame(1), 1)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(backend, "fetch", fetch_slowly)
        assert reader.receive(0) == b""
    assert reader.receive(DEADLINE) == frame(1)
    with monkeypatch.context() as patch:
        patch.setattr(
            backend, "fetch", lambda *query: (real(*query), writer.append(b"", 0, end=True))[0]
        )
        reader.wake()
        assert reader.receive(0) == b""  # its producer is not lost either
    assert read_all(reader) == b""


def test_receive_returns_empty_after_its_timeout(store: Store) -> None:
    writer = create(store)
    reader = store.read(writer.id, "alice")
    assert reader.receive(0) == b""
    assert reader.receive(0.05) == b""
    assert not reader.ended
    assert (reader.fileno() is None) == writer.blocking
    reader.close()
    writer.append(b"", 0, end=True)


def test_closing_a_reader_ends_its_wait(store: Store) -> None:
    writer = create(store)
    reader = store.read(writer.id, "alice")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(reader.receive, 60.0)
        reader.close()
        assert waiting.result(DEADLINE) == b""
    writer.append(b"", 0, end=True)


def test_concurrent_readers_receive_all_their_frames(store: Store) -> None:
    writers = [create(store) for _ in range(8)]
    with ThreadPoolExecutor(40) as pool:
        readings = [
            pool.submit(read_all, store.read(writer.id, "alice", after))
            for writer in writers
            for after in (0, 3, 17)
        ]
        for _ in pool.map(lambda writer: write(writer, 30, end=True), writers):
            pass
        results = [reading.result(DEADLINE) for reading in readings]
    assert results == [frames(1, 30), frames(4, 30), frames(18, 30)] * 8


def test_live_and_replayed_bytes_are_equal(store: Store) -> None:
    writer = create(store)
    with ThreadPoolExecutor() as pool:
        live = pool.submit(read_all, store.read(writer.id, "alice"))
        sent = b""
        for first in range(1, 300, 7):
            block = frames(first, first + 6)
            writer.append(block, 7, wait=first % 2 == 0)
            sent += block
        writer.append(b"", 0, end=True)
        assert live.result(DEADLINE) == sent
    assert read_all(store.read(writer.id, "alice")) == sent


def test_stream_ids_are_random(store: Store) -> None:
    ids = [create(store).id for _ in range(50)]
    assert len({id[:12] for id in ids}) == 50
    assert {len(id) for id in ids} == {37}  # "strm_" and 192 bits in base 64
    assert ids != sorted(ids)


@pytest.mark.parametrize("id", ["strm_" + "a" * 32, "strm_" + "é" * 32, "strm_\udcff"])
def test_unknown_and_malformed_ids_are_not_found(store: Store, id: str) -> None:
    create(store)
    errors = set()
    for call in (partial(look, store), store.read, store.cancel, store.lost):
        with pytest.raises(NotFound) as caught:
            call(id, "alice")
        errors.add(caught.value.body())
    assert len(errors) == 1
    assert id.encode(errors="replace") not in errors.pop()


def test_streams_of_another_owner_are_not_found(store: Store) -> None:
    writer = create(store)
    write(writer, 2)
    with pytest.raises(NotFound) as unknown:
        store.read("strm_" + "a" * 32, "bob")
    for call in (partial(look, store), store.read, store.cancel, store.lost):
        with pytest.raises(NotFound) as caught:
            call(writer.id, "bob")
        assert caught.value.body() == unknown.value.body()
    assert not writer.cancelled
    assert look(store, writer.id).last == 2


def test_status_reports_numbers_and_end(store: Store) -> None:
    writer = create(store)
    status = look(store, writer.id)
    assert (status.first, status.last, status.ended, status.cancelled) == (1, 0, False, False)
    write(writer, 3, end=True)
    status = look(store, writer.id)
    assert (status.first, status.last, status.ended) == (1, 3, True)


def test_repeated_key_joins_its_stream(store: Store) -> None:
    made = store.create("alice", key="k 1", digest="d")
    assert made.writer is not None
    for _ in range(2):
        joined = store.create("alice", key="k 1", digest="d")
        assert (joined.id, joined.writer) == (made.id, None)
        write(made.writer, 1)
    with pytest.raises(IdempotencyConflict):
        store.create("alice", key="k 1", digest="other")
    assert store.create("bob", key="k 1", digest="other").writer is not None
    assert store.create("alice", key="k 2", digest="d").writer is not None
    assert store.create("alic", key="ek 1", digest="d").writer is not None
    assert store.create("alice").id != store.create("alice").id
    made.writer.append(b"", 0, end=True)
    assert store.create("alice", key="k 1", digest="d").id == made.id


def test_concurrent_creates_with_one_key_make_one_stream(store: Store) -> None:
    barrier = threading.Barrier(12)

    def claim(_: int) -> tuple[str, bool]:
        barrier.wait()
        made = store.create("alice", key="é\0 key", digest="d")
        return made.id, made.writer is not None

    with ThreadPoolExecutor(12) as pool:
        claims = list(pool.map(claim, range(12)))
    assert len({id for id, _ in claims}) == 1
    assert sum(made for _, made in claims) == 1


def test_discard_deletes_the_stream_and_frees_its_key(store: Store) -> None:
    made = store.create("alice", key="k", digest="d")
    assert made.writer is not None
    reader = store.read(made.id, "alice")
    made.writer.discard()
    made.writer.discard()
    assert made.writer.ended
    with pytest.raises(NotFound):
        receive(reader, 1)
    with pytest.raises(NotFound):
        look(store, made.id)
    again = store.create("alice", key="k", digest="another")
    assert again.writer is not None and again.id != made.id


def test_cancel_reaches_the_writer(store: Store) -> None:
    writer = create(store)
    write(writer, 2)
    store.cancel(writer.id, "alice")
    store.cancel(writer.id, "alice")
    eventually(lambda: writer.cancelled)
    assert look(store, writer.id).cancelled
    error = sse.number(sse.frame(b'{"error":{}}'), 3)[0]
    writer.append(error, 1, end=True)
    store.cancel(writer.id, "alice")
    assert read_all(store.read(writer.id, "alice")) == frames(1, 2) + error


def test_cancel_ignores_an_ended_log(store: Store) -> None:
    writer = create(store)
    write(writer, 1, end=True)
    store.cancel(writer.id, "alice")
    assert not look(store, writer.id).cancelled
    assert not writer.cancelled


def test_reader_beyond_the_end_receives_the_last_frame(store: Store) -> None:
    writer = create(store)
    write(writer, 3)
    reader = store.read(writer.id, "alice", 9)
    assert reader.receive(0) == b""
    writer.append(frames(4, 5), 2, end=True)
    assert read_all(reader) == frame(5)
    assert read_all(store.read(writer.id, "alice", 10**30)) == frame(5)
    assert read_all(store.read(writer.id, "alice", 5)) == b""


def test_empty_log_can_end(store: Store) -> None:
    writer = create(store)
    writer.append(b"", 0, end=True)
    assert read_all(store.read(writer.id, "alice")) == b""
    assert read_all(store.read(writer.id, "alice", 4)) == b""


@pytest.mark.parametrize("open_any", ["memory"], indirect=True)  # the writer checks it for all
@pytest.mark.parametrize(("block", "count"), [(frame(2), 1), (frame(1)[:-1], 1), (frame(1), 0)])
def test_append_rejects_bytes_that_are_not_the_next_frames(
    store: Store, block: bytes, count: int
) -> None:
    writer = create(store)
    with pytest.raises(ValueError, match="frames"):
        writer.append(block, count)
    assert write(writer, 1) == frame(1)
    writer.append(b"", 0, end=True)
    with pytest.raises(ValueError, match="ended"):
        writer.append(frame(2), 1)
    assert read_all(store.read(writer.id, "alice")) == frame(1)


def test_only_the_newest_bytes_are_retained(open_any: Opener) -> None:
    store = open_any(replay_stream_bytes=8192)
    writer = create(store)
    behind = store.read(writer.id, "alice")
    write(writer, 400)
    status = look(store, writer.id)
    assert status.last == 400
    retained = frames(status.first, 400)
    assert 4096 < len(retained) <= 8192
    assert receive(store.read(writer.id, "alice", status.first - 1), len(retained)) == retained
    for after in (0, status.first - 2):
        with pytest.raises(StreamGone):
            store.read(writer.id, "alice", after)
    with pytest.raises(StreamGone):
        receive(behind, 1)
    write(writer, 1, end=True)
    assert read_all(store.read(writer.id, "alice", 399)) == frames(400, 401)


@pytest.mark.parametrize("before", [0, 2])
def test_drops_a_block_larger_than_the_limit(open_any: Opener, before: int) -> None:
    store = open_any(replay_stream_bytes=4096)
    writer = create(store)
    write(writer, before)
    writer.append(frame(before + 1, "x" * 8192), 1)
    with pytest.raises(StreamGone):
        store.read(writer.id, "alice", before)
    sent = write(writer, 1, end=True)
    assert read_all(store.read(writer.id, "alice", before + 1)) == sent


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_all_streams_stay_within_the_total_limit(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Redis is bounded by its own ``maxmemory``."""
    url = "memory:" if kind == "memory" else f"sqlite:{tmp_path / 'replay.db'}"
    store = open_store(url, Settings(replay_total_bytes=200_000, replay_stream_bytes=50_000))
    request.addfinalizer(store.close)
    writers = [create(store) for _ in range(12)]
    block = frames(1, 1, "x" * 40_000)
    for writer in writers[:6]:
        writer.append(block, 1, end=True)
    eventually(lambda: not exists(store, writers[0]))
    assert exists(store, writers[5])  # the oldest are deleted first
    for writer in writers[6:]:
        for first in range(1, 41):
            writer.append(frames(first, first, "x" * 1000), 1, wait=False)
        writer.append(frame(41), 1)

    def retained() -> int:
        size = 0
        for writer in writers:
            try:
                size += len(receive_now(store, writer))
            except NotFound:
                continue
        return size

    def fits() -> bool:
        try:
            return retained() <= 200_000
        except StreamGone:  # dropped between the query and the read
            return False

    eventually(fits)
    # Ended streams are deleted, running ones lose only their oldest frames.
    for writer in writers[6:]:
        assert look(store, writer.id).last == 41


def exists(store: Store, writer: Writer) -> bool:
    try:
        return bool(look(store, writer.id))
    except NotFound:
        return False


def receive_now(store: Store, writer: Writer) -> bytes:
    reader = store.read(writer.id, "alice", look(store, writer.id).first - 1)
    got = b""
    while part := reader.receive(0):
        got += part
    reader.close()
    return got


def test_fail_sends_joined_readers_the_error_and_frees_the_key(store: Store) -> None:
    made = store.create("alice", key="k", digest="d")
    assert made.writer is not None
    joined = store.create("alice", key="k", digest="d")
    reader = store.read(joined.id, "alice")
    error = sse.number(sse.frame(b'{"error":{"message":"too long"}}'), 1)[0]
    made.writer.fail(error, 1)
    assert read_all(reader) == error
    # The request may be tried again, as the key is free.
    again = store.create("alice", key="k", digest="other")
    assert again.writer is not None and again.id != made.id
    again.writer.append(b"", 0, end=True)
    store.delete(made.id, "alice")
    assert store.create("alice", key="k", digest="other").id == again.id


def test_delete_fails_readers_and_fences_the_writer(store: Store) -> None:
    ended, running = create(store), create(store)
    write(ended, 3, end=True)
    write(running, 2)
    readers = [store.read(writer.id, "alice") for writer in (ended, running)]
    assert receive(readers[1], 1) == frames(1, 2)
    for writer in (ended, running):
        with pytest.raises(NotFound):
            store.delete(writer.id, "bob")
        store.delete(writer.id, "alice")
        with pytest.raises(NotFound):
            store.read(writer.id, "alice")
        with pytest.raises(NotFound):
            store.delete(writer.id, "alice")
    for reader in readers:
        with pytest.raises(NotFound):
            receive(reader, 1)
    with pytest.raises(Fenced):
        write(running, 1)


def test_an_ended_stream_expires_with_its_key(open_any: Opener) -> None:
    store = open_any(replay_ttl_seconds=0.4)
    made = store.create("alice", key="k", digest="d")
    assert made.writer is not None
    running = create(store)
    write(made.writer, 3, end=True)

    def expired() -> bool:
        try:
            look(store, made.id)
        except NotFound:
            return True
        return False

    eventually(expired)
    again = store.create("alice", key="k", digest="d")
    assert again.writer is not None and again.id != made.id
    # A running stream does not expire, however silent.
    assert look(store, running.id).last == 0


def test_writer_records_when_it_was_last_read(store: Store) -> None:
    writer = create(store)
    reader = store.read(writer.id, "alice")
    made = writer.last_read
    assert made <= time.monotonic()
    reader.receive(0)
    eventually(lambda: writer.last_read > made)
    reader.close()


def test_closing_the_store_fails_waiting_readers(store: Store) -> None:
    writer = create(store)
    reader = store.read(writer.id, "alice")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(reader.receive, 60.0)
        store.close()
        store.close()
        assert waiting.exception(5) is not None
    reader.close()
    with pytest.raises(ReplayUnavailable):
        look(store, writer.id)
