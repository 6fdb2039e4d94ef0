"""The event stream: one ending, pings in between, and every resource released."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_provider import Script

from choreo_wsgi import sse
from choreo_wsgi.apis.chat import ChunkWriter, Identity
from choreo_wsgi.app.account import Account
from choreo_wsgi.app.slots import Slots
from choreo_wsgi.chat.answer import Answer
from choreo_wsgi.chat.items import Delta, Finish, Usage
from choreo_wsgi.errors import ChoreoError, ProviderError
from choreo_wsgi.streams import stream
from choreo_wsgi.streams.stream import Control, EventStream, Generation


def never_gone() -> bool:
    return False


def writer() -> ChunkWriter:
    return ChunkWriter(Identity("m", id="chatcmpl-1", created=1700000000))


class Run:
    """An event stream over a script, with its slot and outcomes."""

    def __init__(
        self,
        script: Script,
        n: int = 1,
        gone: Callable[[], bool] = never_gone,
        heartbeat: float = 60.0,
        first: bytes = b"",
    ) -> None:
        self.script = script
        self.control = Control()
        self.slots = Slots(1)
        slot = self.slots.take()
        self.outcomes: list[str] = []

        def on_close(outcome: str) -> None:
            slot.release()
            self.outcomes.append(outcome)

        frames = Answer(script, writer(), n, "label")
        self.generation = Generation(frames, self.control, writer(), first)
        self.stream = EventStream(
            self.generation, gone=gone, heartbeat=heartbeat, on_close=on_close, meter=account()
        )

    def check_all_is_released(self) -> None:
        assert self.slots.active == 0
        assert self.script.closed.is_set()
        assert len(self.outcomes) == 1


def account() -> Account:
    return Account("req_1", "POST", "/v1/chat/completions", "127.0.0.1")


def events(blocks: list[bytes]) -> list[Any]:
    """Return the data of the events of *blocks*, which must be whole frames and pings."""
    for block in blocks:
        assert block == sse.PING or block.endswith(b"\n\n")
        assert block, "some WSGI servers end at an empty block"
    decoded = sse.Decoder().receive_data(b"".join(blocks))
    return [event.data if event.data == "[DONE]" else json.loads(event.data) for event in decoded]


def ending(data: list[Any]) -> str:
    """Check that the stream ended once, with the last event; return how."""
    assert data.count("[DONE]") + sum("error" in item for item in data) == 1
    if data[-1] == "[DONE]":
        return "completed"
    error = data[-1]["error"]
    assert sorted(error) == ["code", "message", "param", "type"]
    return str(error["code"])


# -- one ending, for every failure at every point ---------------------------------------------

STEPS = [Delta("a"), Delta("b"), Finish("stop"), Usage(1, 1)]
FAILURES = [
    (ProviderError("no"), "provider_api_error"),
    (ChoreoError("?", status=529, code="odd"), "odd"),
    (RuntimeError("a bug"), "internal_error"),
    (ValueError("\ud800"), "internal_error"),
]


@pytest.mark.parametrize(
    ("failure", "code", "before"),
    [
        *((*FAILURES[0], before) for before in (0, 1, 3, 4)),
        *((*failure, 1) for failure in FAILURES[1:]),
    ],
)
def test_failure_at_any_point_ends_stream_with_its_error(
    failure: Exception, code: str, before: int
) -> None:
    script = Script()
    script.finish(*STEPS[:before], failure)
    run = Run(script)
    blocks = list(run.stream)
    data = events(blocks)
    assert ending(data) == code
    texts = [item["choices"][0]["delta"].get("content") for item in data[:-1]]
    expected = [step.text for step in STEPS[:before] if isinstance(step, Delta)]
    assert [text for text in texts if text] == expected
    assert run.outcomes == [code]
    run.check_all_is_released()


@pytest.mark.parametrize("before", [0, 2, 3])
def test_source_that_ends_without_finish_is_truncated(before: int) -> None:
    script = Script()
    script.finish(*STEPS[:before])
    run = Run(script)
    whole = Finish("stop") in STEPS[:before]
    assert ending(events(list(run.stream))) == ("completed" if whole else "upstream_truncated")
    run.check_all_is_released()


def test_unfinished_second_choice_is_truncated() -> None:
    script = Script()
    script.finish(Delta("a"), Delta("b", 1), Finish("stop", 1))
    assert ending(events(list(Run(script, n=2).stream))) == "upstream_truncated"


@pytest.mark.parametrize("before", [1, 3])
def test_stopping_server_ends_stream_with_error(before: int) -> None:
    script = Script()
    script.say(*STEPS[:before])
    run = Run(script)
    blocks = [next(run.stream) for _ in STEPS[: min(before, 3)]]
    run.control.stopping = True
    blocks += run.stream
    assert ending(events(blocks)) == "server_shutting_down"
    assert run.outcomes == ["server_shutting_down"]
    run.check_all_is_released()


def test_failing_provider_close_still_ends_stream_with_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class FailingClose(Script):
        def close(self) -> None:
            super().close()
            raise RuntimeError("no")

    for failure in (ProviderError("no"), None):
        script = FailingClose()
        script.finish(*[Delta("a"), Finish()], *([failure] if failure else []))
        run = Run(script)
        assert ending(events(list(run.stream))) in ("provider_api_error", "internal_error")
        run.check_all_is_released()
    run = Run(FailingClose())
    run.stream.close()
    run.check_all_is_released()
    assert "a stream failed to release what it holds" in caplog.text


def test_ended_generation_returns_no_more_bytes() -> None:
    script = Script()
    script.finish(Delta("a"), Finish())
    run = Run(script)
    while not run.generation.ended:
        last = run.generation.receive(0)
    assert last.endswith(sse.DONE)
    run.control.stopping = True
    assert run.generation.receive(0) == b""
    assert run.generation.fail(ProviderError("late")) == b""
    run.generation.close()
    assert run.generation.outcome == "completed"


# -- closing ----------------------------------------------------------------------------------


def test_closing_unstarted_stream_releases_everything() -> None:
    run = Run(Script())
    run.stream.close()
    run.stream.close()
    run.check_all_is_released()
    assert run.outcomes == ["client_closed"]
    assert list(run.stream) == []


@pytest.mark.parametrize("count", [1, 2, 3])
def test_closing_started_stream_twice_releases_once(count: int) -> None:
    script = Script()
    script.say("a", "b", "c", "d")
    run = Run(script)
    for _ in range(count):
        next(run.stream)
    run.stream.close()
    run.check_all_is_released()
    run.stream.close()
    run.check_all_is_released()
    assert run.outcomes == ["client_closed"]


def test_closing_ended_stream_changes_nothing() -> None:
    script = Script()
    script.finish("a", Finish())
    run = Run(script)
    list(run.stream)
    run.stream.close()
    assert run.outcomes == ["completed"]
    with pytest.raises(StopIteration):
        next(run.stream)


def test_disconnect_ends_generation_without_another_byte() -> None:
    gone = threading.Event()
    script = Script()
    script.say("a")
    run = Run(script, gone=gone.is_set)
    assert b'"content":"a"' in next(run.stream)
    gone.set()
    with pytest.raises(StopIteration):
        next(run.stream)
    assert run.outcomes == ["client_closed"]
    run.check_all_is_released()


def test_failing_close_releases_the_slot() -> None:
    run = Run(Script())

    def fail() -> None:
        raise RuntimeError("a bug")

    run.generation.close = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        run.stream.close()
    assert run.slots.active == 0 and len(run.outcomes) == 1


def test_blocks_can_be_read_from_other_threads() -> None:
    script = Script()
    script.finish("a", "b", Finish())
    run = Run(script)
    blocks: list[bytes] = []

    def read() -> None:
        blocks.append(next(run.stream))

    for _ in range(3):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert ending(events([*blocks, *run.stream])) == "completed"


# -- pings, on a clock that advances only while the stream waits ------------------------------


class Clock:
    """Replaces the time module; *now* advances when something waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Timed:
    """A generation whose frames are available after *pauses*."""

    outcome = "completed"

    def __init__(self, clock: Clock, pauses: list[float]) -> None:
        self._clock = clock
        at = clock.now
        self._due = [at := at + pause for pause in pauses]
        self.ended = False

    def receive(self, timeout: float) -> bytes:
        if self._due[0] > self._clock.now + timeout:
            self._clock.now += timeout
            return b""
        self._clock.now = max(self._clock.now, self._due.pop(0))
        self.ended = not self._due
        return sse.frame(b"{}")

    def close(self) -> None:
        self.ended = True


def sent(monkeypatch: pytest.MonkeyPatch, pauses: list[float], heartbeat: float) -> list[Any]:
    """Return the blocks sent, each with its time since the start."""
    clock = Clock()
    monkeypatch.setattr(stream, "time", clock)
    generation = Timed(clock, pauses)
    carried = EventStream(
        generation,
        gone=never_gone,
        heartbeat=heartbeat,
        on_close=lambda outcome: None,
        meter=account(),
    )
    return [(round(clock.now - 1000, 6), block) for block in carried]


def test_pings_silent_stream_at_every_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = sent(monkeypatch, [35.0], heartbeat=10.0)
    assert [(at, block == sse.PING) for at, block in blocks] == [
        (0.0, True),  # the head is sent with the first bytes
        (10.0, True),
        (20.0, True),
        (30.0, True),
        (35.0, False),
    ]


def test_frames_of_lane_postpone_the_ping(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(stream, "time", clock)
    lane = SimpleNamespace(last_forwarded=0.0)
    generation: Any = Timed(clock, [0.0, 100.0])
    generation.fileno, generation.due, generation.lane = lambda: 3, None, lambda: lane
    carried = EventStream(
        generation, gone=never_gone, heartbeat=10.0, on_close=lambda outcome: None, meter=account()
    )
    assert carried.lane() is None, "the head is not sent yet"
    assert carried.ready() == sse.frame(b"{}") and carried.lane() is lane
    lane.last_forwarded = clock.now + 9
    clock.now += 18
    assert carried.due == clock.now + 1 and carried.ready() == b""
    clock.now += 1
    assert carried.ready() == sse.PING


def test_stream_with_first_frame_is_due_at_once() -> None:
    assert Run(Script()).generation.due != 0.0
    assert Run(Script(), first=sse.frame(b"{}")).generation.due == 0.0


def test_silent_stream_is_due_for_its_ping_before_its_generation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "time", SimpleNamespace(monotonic=lambda: 100.0))
    generation: Any = SimpleNamespace(
        receive=lambda timeout: b"", ended=False, due=200.0, fileno=lambda: 3, close=lambda: None
    )
    carried = EventStream(
        generation, gone=never_gone, heartbeat=15.0, on_close=lambda _: None, meter=account()
    )
    carried.ready()
    assert carried.due == 115.0
    generation.due = 101.0
    assert carried.due == 101.0


def test_outcome_of_error_without_code_is_its_type() -> None:
    script, error = Script(), ProviderError("no", type="odd_error")
    error.code = None
    script.finish(error)
    run = Run(script)
    list(run.stream)
    assert run.outcomes == ["odd_error"]


def test_does_not_ping_active_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = sent(monkeypatch, [0.0, *[9.0] * 5], heartbeat=10.0)
    assert [block for _, block in blocks] == [sse.frame(b"{}")] * 6


@given(
    st.lists(st.floats(0, 30), min_size=1, max_size=8), st.sampled_from([0.05, 0.2, 0.25, 1.0, 10])
)
def test_silence_is_at_most_heartbeat_plus_tick(pauses: list[float], heartbeat: float) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        blocks = sent(monkeypatch, pauses, heartbeat)
    times = [at for at, _ in blocks]
    tick = min(stream.TICK, heartbeat)
    for before, after, block in zip([0.0, *times], times, [block for _, block in blocks]):  # noqa: B905
        assert after - before <= heartbeat + tick + 1e-6
        if block == sse.PING and after:
            assert after - before >= heartbeat - 1e-6
    assert [block for _, block in blocks if block != sse.PING] == [sse.frame(b"{}")] * len(pauses)


def test_checks_for_disconnect_at_every_tick_of_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(stream, "time", clock)
    checks: list[float] = []

    def gone() -> bool:
        checks.append(clock.now - 1000)
        return len(checks) == 5

    closed: list[str] = []
    carried = EventStream(
        Timed(clock, [100.0]), gone=gone, heartbeat=10.0, on_close=closed.append, meter=account()
    )
    assert list(carried) == [sse.PING]
    assert checks == [0.25, 0.5, 0.75, 1.0, 1.25]
    assert len(closed) == 1
