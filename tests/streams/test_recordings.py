"""Recordings and readings of logs: what they say to whoever carries them, and at the end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from replay_helpers import create, frame, in_memory

from choreo_wsgi.replay import Store, open_store
from choreo_wsgi.settings import Settings
from choreo_wsgi.streams.recording import Orphans, Playback, Recording
from choreo_wsgi.streams.stream import Control

SILENCE: Any = SimpleNamespace(
    receive=lambda _: b"", fileno=lambda: 3, due=None, ended=False, on_end=None
)


@pytest.fixture
def logs() -> Any:
    one = in_memory(ttl=60, stream_bytes=10_000, total_bytes=100_000)
    yield one
    one.close()


def playback(logs: Store, control: Control) -> tuple[Any, Playback]:
    """Return the writer of a stream and a reading of it, whose error has what it was given."""
    writer = create(logs)
    reader = logs.read(writer.id, "alice")
    return writer, Playback(reader, control, lambda _: None, lambda error, last: b"after " + last)


def test_a_log_that_is_waited_for_keeps_its_recording_from_the_loop(tmp_path: Path) -> None:
    """A worker carries it; without a client nobody waits for the log, and the loop does."""
    logs = open_store(f"sqlite:{tmp_path / 'replay.db'}", Settings())
    recording = Recording(SILENCE, create(logs), lambda one: orphans.add(one, "alice"))
    assert (recording.fileno(), recording.due) == (None, None)
    orphans = Orphans(60.0)
    carried: list[Recording] = []
    orphans.carrier = SimpleNamespace(carry=carried.append)  # type: ignore[assignment]
    recording.close()
    assert carried == [recording] and orphans.active_of("alice") == 1
    assert recording.fileno() == 3 and recording.due is not None
    logs.close()


def test_a_reading_that_the_server_ends_has_all_that_was_logged(logs: Store) -> None:
    control = Control()
    writer, reading = playback(logs, control)
    writer.append(frame(1), 1)
    control.stopping = True
    assert reading.receive(0) == frame(1) and not reading.ended
    assert reading.receive(0) == b"after " + frame(1) and reading.ended
    assert reading.outcome == "server_shutting_down"


def test_the_error_of_a_reading_follows_the_last_frames_however_long_ago(logs: Store) -> None:
    control = Control()
    writer, reading = playback(logs, control)
    writer.append(frame(1), 1)
    assert reading.receive(0) == frame(1)
    assert reading.receive(0) == b""
    control.stopping = True
    assert reading.receive(0) == b"after " + frame(1)
