"""The carrier: which loads it steps, when, and on which thread."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import harness
import pytest

from choreo_wsgi.streams import carrier as carrying
from choreo_wsgi.streams.carrier import Carrier
from choreo_wsgi.streams.load import Load
from choreo_wsgi.streams.poller import Selecting, new_poller
from choreo_wsgi.streams.workers import Workers


@pytest.fixture(params=[new_poller, Selecting])
def carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Carrier]:
    """A carrier, with the best poller of this system and with the fallback."""
    monkeypatch.setattr(carrying, "new_poller", request.param)
    one = Carrier(Workers(4))
    one.start()
    yield one
    one.close()


class Waiting(Load):
    """Waits for *sock*, or until *due*; records the thread of each step."""

    def __init__(self, sock: socket.socket | None = None, due: float | None = None) -> None:
        super().__init__()
        self.sock = sock
        self.time = due
        self.steps: list[str] = []
        self.asked = 0  # how often for the time
        self.left = threading.Event()

    def fileno(self) -> int | None:
        return None if self.sock is None else self.sock.fileno()

    @property
    def due(self) -> float | None:
        self.asked += 1
        return self.time

    def step(self, patience: float) -> None:
        self.steps.append(threading.current_thread().name)
        if self.sock is not None:
            self.ended = self.sock.recv(1) == b"e"

    def release(self) -> None:
        self.left.set()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def stepped_once(carrier: Carrier, pair: tuple[socket.socket, socket.socket]) -> Waiting:
    """Carry a load that waits for the first of *pair* and has been stepped once."""
    load = Waiting(pair[0])
    carrier.carry(load)
    pair[1].sendall(b"a")
    harness.wait_until(lambda: load.steps, "the load is stepped")
    return load


def test_steps_load_when_descriptor_is_readable(
    carrier: Carrier, pair: tuple[socket.socket, socket.socket]
) -> None:
    load = stepped_once(carrier, pair)
    pair[1].sendall(b"e")
    assert load.left.wait(harness.DEADLINE)
    assert load.steps == ["carrier", "carrier"]
    assert carrier.carried == 0


def test_polls_reused_descriptor_number(
    carrier: Carrier, pair: tuple[socket.socket, socket.socket]
) -> None:
    """As when a connection is made again: the number is the same, the file is not."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        load = stepped_once(carrier, pair)
        stepped = threading.Event()

        def reuse() -> None:
            os.dup2(ours.fileno(), pair[0].fileno())
            carrier.update(load)
            stepped.set()

        carrier.call(reuse)
        assert stepped.wait(harness.DEADLINE)
        theirs.sendall(b"e")
        assert load.left.wait(harness.DEADLINE)


def test_polls_new_descriptor_and_not_the_old(
    carrier: Carrier, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Bytes on the old descriptor do not step the load."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        load = stepped_once(carrier, pair)

        def move() -> None:
            load.sock = ours
            carrier.update(load)
            pair[1].sendall(b"old")

        carrier.call(move)
        old = pair[0].fileno()
        harness.wait_until(lambda: old not in carrier._polled, "the old descriptor is not polled")
        for _ in range(5):
            passed = threading.Event()
            carrier.call(passed.set)
            assert passed.wait(harness.DEADLINE)
        theirs.sendall(b"e")
        assert load.left.wait(harness.DEADLINE)
        assert len(load.steps) == 2


def test_steps_load_when_due(carrier: Carrier) -> None:
    load = Waiting(due=time.monotonic() + 0.02)

    def step(patience: float) -> None:
        load.steps.append(threading.current_thread().name)
        load.ended = True

    load.step = step  # type: ignore[method-assign]
    carrier.carry(load)
    assert load.left.wait(harness.DEADLINE)
    assert load.steps == ["carrier"]


def test_worker_steps_load_until_it_can_be_polled(
    carrier: Carrier, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Meanwhile the loop serves others."""
    entered, proceed = threading.Event(), threading.Event()
    blocking = Waiting()

    def step(patience: float) -> None:
        assert patience > 0
        blocking.steps.append(threading.current_thread().name)
        entered.set()
        assert proceed.wait(harness.DEADLINE)
        blocking.sock = pair[0]
        del blocking.step  # type: ignore[method-assign]

    blocking.step = step  # type: ignore[method-assign]
    carrier.carry(blocking)
    assert entered.wait(harness.DEADLINE)
    called = threading.Event()
    carrier.call(called.set)
    assert called.wait(harness.DEADLINE)
    carrier.step_all()  # not the load that a worker steps
    proceed.set()
    pair[1].sendall(b"e")
    assert blocking.left.wait(harness.DEADLINE)
    assert blocking.steps == ["worker-1", "carrier"]


def test_loop_skips_due_load_of_a_worker(
    carrier: Carrier, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Only the worker steps it then, and changes its time."""
    proceed = threading.Event()
    soon = time.monotonic() + 0.1
    both = Waiting(pair[0], soon)

    def step(patience: float) -> None:
        both.steps.append(threading.current_thread().name)
        if both.sock is None:
            assert proceed.wait(harness.DEADLINE)
            both.ended = True
        both.sock = both.time = None

    both.step = step  # type: ignore[method-assign]
    carrier.carry(both)
    pair[1].sendall(b"x")
    harness.wait_until(lambda: "worker-1" in both.steps, "a worker steps it")
    asked = both.asked
    later = Waiting(due=soon + 0.1)
    carrier.carry(later)
    harness.wait_until(lambda: later.steps, "the later load is stepped")
    assert both.asked == asked
    proceed.set()
    assert both.left.wait(harness.DEADLINE)
    assert both.steps == ["carrier", "worker-1"]
    later.time = None
    later.ended = True


class Changing(Waiting):
    """Its time changes on its way from the worker to the loop."""

    @property
    def due(self) -> float | None:
        return None if threading.current_thread().name == "carrier" else 0.0


def test_load_that_may_block_again_returns_to_a_worker(carrier: Carrier) -> None:
    load = Changing()

    def step(patience: float) -> None:
        load.steps.append(threading.current_thread().name)
        load.ended = len(load.steps) == 2

    load.step = step  # type: ignore[method-assign]
    carrier.carry(load)
    assert load.left.wait(harness.DEADLINE)
    assert "carrier" not in load.steps


def test_steps_load_at_once_after_worker(
    carrier: Carrier, pair: tuple[socket.socket, socket.socket]
) -> None:
    """What it missed meanwhile is not reported again."""
    load = Waiting()

    def step(patience: float) -> None:
        load.steps.append(threading.current_thread().name)
        load.sock = pair[0]
        load.ended = patience == 0

    load.step = step  # type: ignore[method-assign]
    carrier.carry(load)
    assert load.left.wait(harness.DEADLINE)
    assert load.steps == ["worker-1", "carrier"]


def test_steps_load_at_postponed_due_time(carrier: Carrier) -> None:
    """As each event postpones a stream's time-out without notice to the carrier."""
    load = Waiting(due=time.monotonic() + 0.01)
    load.step = lambda patience: setattr(load, "ended", True)  # type: ignore[method-assign]

    def begin() -> None:
        carrier.add(load)
        load.time = time.monotonic() + 0.05

    carrier.call(begin)
    assert load.left.wait(harness.DEADLINE)


def test_frees_ended_load_before_its_due_time(
    carrier: Carrier, pair: tuple[socket.socket, socket.socket]
) -> None:
    load = Waiting(pair[0], time.monotonic() + 600)
    carrier.carry(load)
    pair[1].sendall(b"e")
    assert load.left.wait(harness.DEADLINE)
    gone = weakref.ref(load)
    del load
    harness.wait_until(lambda: gone() is None, "the load is freed")


class Failing(Waiting):
    """Cannot be waited for, or stepped, as *how* says, once it has been stepped."""

    def __init__(self, how: str, due: float | None) -> None:
        super().__init__(due=due)
        self.how = how
        self.error: Exception | None = None

    def fileno(self) -> int | None:
        if self.how == "fileno" and self.steps:
            raise OSError("no descriptor")
        return -1 if self.how == "closed" and self.steps else None

    @property
    def due(self) -> float | None:
        if self.how == "due" and self.steps:
            raise RuntimeError("no time")
        return self.time

    def step(self, patience: float) -> None:
        super().step(patience)
        if self.how == "step":
            raise MemoryError

    def abandon(self, error: Exception) -> None:
        self.error = error


@pytest.mark.parametrize("thread", ["carrier", "worker"])
@pytest.mark.parametrize("how", ["fileno", "closed", "due", "step"])
def test_load_that_fails_is_dropped_alone(
    carrier: Carrier, pair: tuple[socket.socket, socket.socket], how: str, thread: str
) -> None:
    other = stepped_once(carrier, pair)
    load = Failing(how, time.monotonic() if thread == "carrier" else None)
    carrier.carry(load)
    assert load.left.wait(harness.DEADLINE)
    assert load.error is not None and load.steps[0].startswith(thread)
    pair[1].sendall(b"e")
    assert other.left.wait(harness.DEADLINE)


@pytest.mark.parametrize("at_once", [True, False])
def test_load_whose_time_is_unknown_is_dropped(carrier: Carrier, at_once: bool) -> None:
    """When it is added, or when the time has come that it had."""
    load = Failing("due", math.inf)

    def begin() -> None:
        if not at_once:
            carrier.add(load)
            carrier._set_timer(load, time.monotonic())
        load.steps.append("none")
        if at_once:
            carrier.add(load)

    carrier.call(begin)
    assert load.left.wait(harness.DEADLINE)
    assert load.steps == (["none"] if at_once else ["none", "carrier"])
    assert isinstance(load.error, RuntimeError)


def spin() -> None:
    """Take longer than the share of a round that scheduled loads have."""
    until = time.monotonic() + 2 * carrying.SHARE
    while time.monotonic() < until:
        pass


def test_scheduled_load_runs_despite_busy_streams(
    carrier: Carrier, pair: tuple[socket.socket, socket.socket]
) -> None:
    busy, other = Waiting(pair[0]), Waiting(due=float("inf"))

    def step(patience: float) -> None:
        busy.steps.append("")
        spin()
        busy.ended = other.ended

    busy.step = step  # type: ignore[method-assign]
    other.step = lambda patience: setattr(other, "ended", True)  # type: ignore[method-assign]
    carrier.carry(busy)
    pair[1].sendall(b"more than one step reads")
    harness.wait_until(lambda: busy.steps, "the stream is stepped")
    carrier.call(lambda: carrier.schedule(other))
    assert other.left.wait(harness.DEADLINE)
    assert busy.left.wait(harness.DEADLINE)


def test_stream_is_stepped_between_starting_loads(
    carrier: Carrier, pair: tuple[socket.socket, socket.socket]
) -> None:
    order: list[str] = []
    stream = Waiting(pair[0])
    stream.step = lambda patience: (  # type: ignore
        order.append("stream"),
        setattr(stream, "ended", True),
    )
    starting = [Waiting(due=float("inf")) for _ in range(10)]

    def step(patience: float) -> None:
        if not order:
            pair[1].sendall(b"x")
        order.append("start")
        spin()

    def begin() -> None:
        carrier.add(stream)
        for load in starting:
            load.step = step  # type: ignore[method-assign]
            carrier.schedule(load)

    carrier.call(begin)
    harness.wait_until(lambda: len(order) == 11, "all are stepped")
    assert order.index("stream") < 10


def test_step_all_steps_every_load(carrier: Carrier) -> None:
    loads = [Waiting(due=float("inf")) for _ in range(3)]
    for load in loads:
        carrier.carry(load)
    carrier.step_all()
    harness.wait_until(lambda: all(load.steps for load in loads), "all are stepped")


def test_call_from_a_call_runs_without_another_event(carrier: Carrier) -> None:
    called = threading.Event()
    carrier.call(lambda: carrier.call(called.set))
    assert called.wait(harness.DEADLINE)


def test_wake_is_consumed_by_one_poll(carrier: Carrier) -> None:
    """Otherwise every later poll would return at once."""
    polls: list[float] = []
    real = carrier._poller

    class Counting:
        def poll(self, timeout: float) -> list[tuple[int, int]]:
            polls.append(timeout)
            return real.poll(timeout)

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    carrier._poller = Counting()  # type: ignore[assignment]
    load = Waiting(due=time.monotonic() + 0.05)
    load.step = lambda patience: setattr(load, "ended", True)  # type: ignore[method-assign]
    carrier.carry(load)
    assert load.left.wait(harness.DEADLINE)
    assert len(polls) < 10
