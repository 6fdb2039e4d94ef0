"""What is buffered, watched and told while a shared store is away, and what that must not cost."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from replay_helpers import (
    Opener,
    create,
    eventually,
    frame,
    frames,
    in_memory,
    look,
    receive,
    write,
)

from choreo_wsgi.errors import NotFound, ReplayUnavailable
from choreo_wsgi.replay import Store
from choreo_wsgi.replay.backend import Unreachable


def keep_away(store: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have every question of *store* fail; return the names of those that were asked."""
    asked: list[str] = []

    def away(name: str) -> Callable[..., Any]:
        def fail(*_: Any) -> Any:
            asked.append(name)
            raise Unreachable("it is away")

        return fail

    for name in ("beat", "insert", "write", "fetch", "delete", "mark"):
        monkeypatch.setattr(store._backend, name, away(name))
    return asked


def test_the_largest_buffers_are_cut_first(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small one may hold the end of its stream."""
    store: Any = open_shared(replay_total_bytes=100_000, replay_stream_bytes=90_000)
    keep_away(store, monkeypatch)
    small, large = create(store), create(store)
    small.append(frame(1), 1, end=True, wait=False)
    for number in range(1, 200):
        large.append(frames(number, number, "x" * 500), 1, wait=False)
    other = create(store)
    for number in range(1, 60):
        other.append(frames(number, number, "x" * 500), 1, wait=False)
    assert small.size == len(frame(1))
    assert store._keeper.buffered == small.size + large.size + other.size <= 100_000


def test_a_block_that_cannot_be_buffered_costs_only_itself(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = open_shared(replay_stream_bytes=5_000)
    keep_away(store, monkeypatch)
    writer = create(store)
    writer.append(frames(1, 1, "x" * 9_000), 1, wait=False)
    assert writer.size == 0
    writer.append(frame(2), 1, wait=False)
    assert writer.size == len(frame(2)) and writer.last == 2


def test_a_stream_that_is_forgotten_leaves_no_buffer_and_no_log(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the store is back, too, though it was away just then."""
    store: Any = open_shared()
    writer = create(store)
    write(writer, 1)
    with monkeypatch.context() as patch:
        keep_away(store, patch)
        writer.append(frame(2), 1, wait=False)
        eventually(lambda: not store.reachable)
        writer.discard()
        assert store._keeper.buffered == 0
    eventually(lambda: store.reachable)
    with pytest.raises(NotFound):
        look(store, writer.id)


def test_an_outage_is_told_of_once(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "choreo_wsgi.replay")
    store = open_shared()
    create(store)
    asked = keep_away(store, monkeypatch)
    eventually(lambda: asked.count("beat") > 3)
    assert caplog.text.count("the replay store cannot be reached") == 1


def test_what_was_read_is_handed_over_though_that_cannot_be_told(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch, patient: None
) -> None:
    ours: Any = open_shared()
    theirs: Any = open_shared()
    writer = create(ours)
    sent = write(writer, 1)

    def away(id: str, mark: str) -> None:
        raise Unreachable("it went away just now")

    monkeypatch.setattr(theirs._backend, "mark", away)
    reader = theirs.read(writer.id, "alice")
    assert reader.receive(0) == sent
    reader.close()


def test_a_reader_tells_now_and_then_that_it_reads(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at each look, of which each would be a write."""
    ours: Any = open_shared()
    theirs: Any = open_shared()
    writer = create(ours)
    write(writer, 1)
    told: list[str] = []
    monkeypatch.setattr("choreo_wsgi.replay.reader._MARK_EVERY", 1000.0)
    monkeypatch.setattr(theirs._backend, "mark", lambda *what: told.append(what[1]))
    reader = theirs.read(writer.id, "alice")
    for _ in range(5):
        reader.wake()
        reader.receive(0)
    assert told == ["read"]
    reader.close()


def test_a_reader_that_comes_when_nobody_reads_is_woken_too(open_shared: Opener) -> None:
    """Whoever watches for all has nothing to do between readers, and none is kept."""
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


def test_who_is_far_beyond_a_lost_stream_is_taken_for_nearer(open_shared: Opener) -> None:
    ours, theirs = open_shared(), open_shared()
    writer = create(ours)
    write(writer, 2)
    ours.close()
    reader = theirs.read(writer.id, "alice", 10**15)
    assert reader.last == 1_000_002
    reader.close()


def test_a_running_stream_of_another_process_is_not_deleted(
    open_shared: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choreo_wsgi.replay.store._CANCEL_TIMEOUT", 0.0)
    ours, theirs = open_shared(), open_shared()
    writer = create(ours)
    write(writer, 1)
    with pytest.raises(ReplayUnavailable, match="has not ended yet"):
        theirs.delete(writer.id, "alice")
    assert look(ours, writer.id).last == 1


def test_the_longest_logs_in_memory_are_cut_first() -> None:
    store: Store = in_memory(ttl=60, stream_bytes=90_000, total_bytes=100_000)
    small, large = create(store), create(store)
    write(small, 1)
    for number in range(1, 160):
        large.append(frames(number, number, "x" * 500), 1)
    other = create(store)
    for number in range(1, 60):
        other.append(frames(number, number, "x" * 500), 1)
    assert look(store, small.id).first == 1 and look(store, large.id).first > 1
    store.close()
