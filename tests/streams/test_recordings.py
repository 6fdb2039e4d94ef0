"""Recordings and playbacks of logs: how they are carried, and how they end."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import harness
import pytest
from replay_helpers import create, frame, in_memory
from scripted_provider import Script

from choreo_wsgi import sse
from choreo_wsgi.apis.chat import ChunkWriter, Identity
from choreo_wsgi.chat.answer import Answer
from choreo_wsgi.chat.items import Delta, Finish
from choreo_wsgi.errors import ChoreoError, NotFound, ProviderError
from choreo_wsgi.replay import Store, open_store
from choreo_wsgi.settings import Settings
from choreo_wsgi.streams.carrier import Carrier
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


def start_recording(logs: Store) -> tuple[Script, Recording, list[str]]:
    """Return a script, its recording, and what its end adds a word to."""
    script, form = Script(), ChunkWriter(Identity("m", id="chatcmpl-1", created=1700000000))
    generation = Generation(Answer(script, form, 1, "label"), Control(), form)
    freed: list[str] = []
    generation.on_end = lambda: freed.append("freed")
    return script, Recording(generation, create(logs), lambda one: True), freed


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("has_client", [True, False])
@pytest.mark.parametrize(("times", "ending"), [(1, "internal_error"), (99, "stream_not_found")])
@pytest.mark.parametrize("where", ["append", "backend"])
def test_readers_get_an_ending_if_a_stream_cannot_be_logged(
    logs: Store,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    times: int,
    ending: str,
    has_client: bool,
    at_end: bool,
) -> None:
    """An error, or if not even that can be logged, a log that is not there any more."""
    script, recording, freed = start_recording(logs)
    writer, failures = recording.writer, list[str]()

    def read(error: ChoreoError, last: bytes) -> bytes:
        return sse.frame(error.body())

    playback = Playback(logs.read(writer.id, "alice"), Control(), lambda _: None, read)
    script.say(Delta("first"))
    recording.step(0)
    one, name = (writer, "append") if where == "append" else (logs._backend, "write")
    append = getattr(one, name)

    def fail(*arguments: Any, **options: Any) -> Any:
        if len(failures) < times:
            failures.append("failed")
            raise MemoryError
        return append(*arguments, **options)

    received = playback.receive(0)
    assert b"first" in received
    monkeypatch.setattr(one, name, fail)
    (script.finish if at_end else script.say)(Delta("second"), *([Finish()] if at_end else []))
    if has_client:
        assert b'"code":"internal_error"' in recording.receive(0)
    else:
        recording.step(0)
    assert (recording.ended, recording.outcome, freed) == (True, "internal_error", ["freed"])
    assert script.closed.is_set()
    while not playback.ended:
        received += playback.receive(0.2)
    assert received.count(ending.encode()) == 1
    assert sse.DONE not in received


def test_log_of_a_stream_whose_error_cannot_be_written_is_deleted(
    logs: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    script, recording, freed = start_recording(logs)

    def fail(*arguments: Any) -> Any:
        raise RuntimeError("no frame")

    monkeypatch.setattr(recording.generation.writer, "fail", fail)
    reader = logs.read(recording.writer.id, "alice")
    script.say(ProviderError("no"))
    recording.step(0)
    assert recording.ended and freed == ["freed"] and "no frame" in caplog.text
    with pytest.raises(NotFound):
        reader.receive(0)
    reader.close()


def test_stream_that_no_thread_can_carry_ends(
    logs: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    script, recording, freed = start_recording(logs)
    orphans = Orphans(60.0)
    recording._adopt = lambda one: orphans.add(one, "alice")

    def fail(self: Carrier) -> None:
        self.close()
        raise RuntimeError("no thread is left")

    monkeypatch.setattr(Carrier, "start", fail)
    recording.close()
    assert recording.ended and freed == ["freed"] and script.closed.is_set()
    assert (orphans.active, orphans.carrier) == (0, None) and "no thread" in caplog.text
    reader = logs.read(recording.writer.id, "alice")
    assert b"internal_error" in reader.receive(0) and reader.ended
    reader.close()


def test_orphan_that_cannot_be_polled_ends(logs: Store) -> None:
    script, recording, freed = start_recording(logs)
    orphans = Orphans(60.0)
    recording._adopt = lambda one: orphans.add(one, "alice")
    script.fileno = lambda: -1
    recording.close()
    assert script.closed.wait(harness.DEADLINE)
    harness.wait_until(lambda: not orphans.active, "the slot is free")
    assert recording.ended and freed == ["freed"]
    reader = logs.read(recording.writer.id, "alice")
    assert b"internal_error" in reader.receive(0) and reader.ended
    reader.close()
    assert orphans.carrier is not None
    orphans.carrier.close()


def test_playback_of_a_log_that_cannot_be_read_ends(
    logs: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer, playback = start_playback(logs, Control())
    writer.append(frame(1), 1)
    assert playback.receive(0) == frame(1)
    writer.append(frame(2), 1)

    def fail(*arguments: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(logs._backend, "fetch", fail)
    assert playback.receive(0) == b"after " + frame(1)
    assert playback.ended and "MemoryError" in caplog.text


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
