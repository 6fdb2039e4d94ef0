"""Recordings and playbacks of logs: how they are carried, and how they end."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from replay_helpers import create, frame, in_memory
from scripted_provider import Script

from choreo_wsgi import sse
from choreo_wsgi.apis.chat import ChunkWriter, Identity
from choreo_wsgi.chat.answer import Answer
from choreo_wsgi.chat.items import Delta, Finish
from choreo_wsgi.errors import ProviderError
from choreo_wsgi.replay import Store, open_store
from choreo_wsgi.settings import Settings
from choreo_wsgi.streams.recording import Orphans, Playback, Recording
from choreo_wsgi.streams.stream import Control, Generation

SILENCE: Any = SimpleNamespace(
    receive=lambda _: b"", fileno=lambda: 3, due=None, ended=False, on_end=None
)


@pytest.fixture
def logs() -> Any:
    one = in_memory(ttl=60, stream_bytes=10_000, total_bytes=100_000)
    yield one
    one.close()


def start_playback(logs: Store, control: Control) -> tuple[Any, Playback]:
    """Return the writer of a stream and its playback, whose error quotes the last frames."""
    writer = create(logs)
    reader = logs.read(writer.id, "alice")
    return writer, Playback(reader, control, lambda _: None, lambda error, last: b"after " + last)


def test_loop_carries_recording_to_sqlite_only_without_client(tmp_path: Path) -> None:
    """A worker steps it, as its client waits for writes; without a client the loop does."""
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


@pytest.mark.parametrize(("descriptor", "blocks"), [(None, 16), (3, 1)])
def test_orphan_leaves_the_loop_after_some_blocks(
    logs: Store, descriptor: int | None, blocks: int
) -> None:
    """After each one if it can be polled, else after 16, so that others are not delayed."""
    source = SimpleNamespace(**vars(SILENCE))
    source.receive, source.fileno = lambda _: sse.frame(b"{}"), lambda: descriptor
    recording = Recording(source, create(logs), lambda one: True)
    recording.step(0)
    assert recording.writer.last == blocks


def test_log_ends_although_the_stream_cannot_be_accounted_for(
    logs: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("no account")

    for failure, ending in ((None, sse.DONE), (ProviderError("no"), b"provider_api_error")):
        script, form = Script(), ChunkWriter(Identity("m", id="chatcmpl-1", created=1700000000))
        script.finish(Delta("a"), Finish(), *([failure] if failure else []))
        generation = Generation(Answer(script, form, 1, "label"), Control(), form)
        recording = Recording(generation, create(logs), lambda one: True)
        generation.on_end = fail
        while not recording.ended:
            recording.step(0)
        reader = logs.read(recording.writer.id, "alice")
        assert ending in reader.receive(0) and reader.ended
        reader.close()
    assert "no account" in caplog.text


def test_closing_ended_recording_makes_no_orphan(logs: Store) -> None:
    adopted: list[Recording] = []
    recording = Recording(SILENCE, create(logs), lambda one: not adopted.append(one))
    recording.ended, recording.outcome = True, "completed"
    recording.close()
    assert (adopted, recording.outcome) == ([], "completed")


def test_recording_is_due_with_its_source_and_at_every_second(logs: Store) -> None:
    source = SimpleNamespace(**vars(SILENCE))
    recording = Recording(source, create(logs), lambda one: True)
    for source.due in (None, time.monotonic() + 60):
        assert time.monotonic() < recording.due <= time.monotonic() + 1  # type: ignore[operator]
    source.due = 5.0
    assert recording.due == 5.0


def test_stopped_playback_sends_all_logged_frames_first(logs: Store) -> None:
    control = Control()
    writer, playback = start_playback(logs, control)
    writer.append(frame(1), 1)
    control.stopping = True
    assert playback.receive(0) == frame(1) and not playback.ended
    assert playback.receive(0) == b"after " + frame(1) and playback.ended
    assert playback.outcome == "server_shutting_down"


def test_stop_error_of_playback_is_given_frames_sent_long_before(logs: Store) -> None:
    control = Control()
    writer, playback = start_playback(logs, control)
    writer.append(frame(1), 1)
    assert playback.receive(0) == frame(1)
    assert playback.receive(0) == b""
    control.stopping = True
    assert playback.receive(0) == b"after " + frame(1)
