"""The carrier: whom it asks, when, and on which thread."""

from __future__ import annotations

import os
import socket
import threading
import time
import weakref
from collections.abc import Iterator

import harness
import pytest

from choreo_wsgi.streams import carrier as carrying
from choreo_wsgi.streams.carrier import Carrier, Load
from choreo_wsgi.streams.poller import Selecting, new_poller
from choreo_wsgi.streams.workers import Workers


@pytest.fixture(params=[new_poller, Selecting])
def carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Carrier]:
    """A carrier, with the best poller of this system and with that of others."""
    monkeypatch.setattr(carrying, "new_poller", request.param)
    one = Carrier(Workers(4))
    one.start()
    yield one
    one.close()


class Waiting(Load):
    """Waits for *sock*, or until *due*; notes the thread of each step."""

    def __init__(self, sock: socket.socket | None = None, due: float | None = None) -> None:
        super().__init__()
        self.sock = sock
        self.time = due
        self.steps: list[str] = []
        self.left = threading.Event()

    def fileno(self) -> int | None:
        return None if self.sock is None else self.sock.fileno()

    @property
    def due(self) -> float | None:
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


def asked_once(carrier: Carrier, pair: tuple[socket.socket, socket.socket]) -> Waiting:
    """Carry what waits for the first of *pair*, and has been asked for what came there."""
    load = Waiting(pair[0])
    carrier.carry(load)
    pair[1].sendall(b"a")
    harness.wait_until(lambda: load.steps, "it is asked")
    return load


def test_a_descriptor_that_turns_readable(
    carrier: Carrier, pair: tuple[socket.socket, socket.socket]
) -> None:
    load = asked_once(carrier, pair)
    pair[1].sendall(b"e")
    assert load.left.wait(harness.DEADLINE)
    assert load.steps == ["carrier", "carrier"]
    assert carrier.carried == 0


def test_a_descriptor_that_is_closed_and_used_anew(
    carrier: Carrier, pair: tuple[socket.socket, socket.socket]
) -> None:
    """As that of a connection that is made a second time: the number says nothing."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        load = asked_once(carrier, pair)
        stepped = threading.Event()

        def anew() -> None:
            os.dup2(ours.fileno(), pair[0].fileno())
            carrier.update(load)
            stepped.set()

        carrier.call(anew)
        assert stepped.wait(harness.DEADLINE)
        theirs.sendall(b"e")
        assert load.left.wait(harness.DEADLINE)


def test_a_descriptor_that_is_left_for_another(
    carrier: Carrier, pair: tuple[socket.socket, socket.socket]
) -> None:
    """What comes to the old one is nothing to the load any more."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        load = asked_once(carrier, pair)

        def move() -> None:
            load.sock = ours
            carrier.update(load)
            pair[1].sendall(b"old")

        carrier.call(move)
        old = pair[0].fileno()
        harness.wait_until(lambda: old not in carrier._polled, "nobody is woken for it any more")
        for _ in range(5):
            passed = threading.Event()
            carrier.call(passed.set)
            assert passed.wait(harness.DEADLINE)
        theirs.sendall(b"e")
        assert load.left.wait(harness.DEADLINE)
        assert len(load.steps) == 2


def test_a_time_that_comes(carrier: Carrier) -> None:
    load = Waiting(due=time.monotonic() + 0.02)

    def step(patience: float) -> None:
        load.steps.append(threading.current_thread().name)
        load.ended = True

    load.step = step  # type: ignore[method-assign]
    carrier.carry(load)
    assert load.left.wait(harness.DEADLINE)
    assert load.steps == ["carrier"]


def test_what_may_block_is_a_workers_until_it_can_be_polled(
    carrier: Carrier, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Meanwhile nobody else is held up."""
    entered, go_on = threading.Event(), threading.Event()
    slow = Waiting()

    def step(patience: float) -> None:
        assert patience > 0
        slow.steps.append(threading.current_thread().name)
        entered.set()
        assert go_on.wait(harness.DEADLINE)
        slow.sock = pair[0]
        del slow.step  # type: ignore[method-assign]

    slow.step = step  # type: ignore[method-assign]
    carrier.carry(slow)
    assert entered.wait(harness.DEADLINE)
    called = threading.Event()
    carrier.call(called.set)
    assert called.wait(harness.DEADLINE)
    carrier.step_all()  # it is the worker's now
    go_on.set()
    pair[1].sendall(b"e")
    assert slow.left.wait(harness.DEADLINE)
    assert slow.steps == ["worker-1", "carrier"]


def test_its_time_comes_while_it_is_a_workers(
    carrier: Carrier, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Only the worker moves it then."""
    go_on = threading.Event()
    soon = time.monotonic() + 0.1
    both = Waiting(pair[0], soon)

    def step(patience: float) -> None:
        both.steps.append(threading.current_thread().name)
        if both.sock is None:
            assert go_on.wait(harness.DEADLINE)
            both.ended = True
        both.sock = both.time = None

    both.step = step  # type: ignore[method-assign]
    carrier.carry(both)
    pair[1].sendall(b"x")
    harness.wait_until(lambda: "worker-1" in both.steps, "it is a worker's")
    later = Waiting(due=soon + 0.1)
    carrier.carry(later)
    harness.wait_until(lambda: later.steps, "the later time has come")
    go_on.set()
    assert both.left.wait(harness.DEADLINE)
    assert both.steps == ["carrier", "worker-1"]
    later.time = None
    later.ended = True


def test_what_comes_back_from_a_worker_is_asked_at_once(
    carrier: Carrier, pair: tuple[socket.socket, socket.socket]
) -> None:
    """What happened meanwhile was told to nobody, and nothing more may come."""
    load = Waiting()

    def step(patience: float) -> None:
        load.steps.append(threading.current_thread().name)
        load.sock = pair[0]
        load.ended = patience == 0

    load.step = step  # type: ignore[method-assign]
    carrier.carry(load)
    assert load.left.wait(harness.DEADLINE)
    assert load.steps == ["worker-1", "carrier"]


def test_a_time_that_was_put_off_comes_all_the_same(carrier: Carrier) -> None:
    """As a stream's time-out is put off by each event, and nobody tells the carrier."""
    load = Waiting(due=time.monotonic() + 0.01)
    load.step = lambda patience: setattr(load, "ended", True)  # type: ignore[method-assign]

    def begin() -> None:
        carrier.add(load)
        load.time = time.monotonic() + 0.05

    carrier.call(begin)
    assert load.left.wait(harness.DEADLINE)


def test_nothing_is_kept_of_what_has_ended(
    carrier: Carrier, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Not until its time would have come, either."""
    load = Waiting(pair[0], time.monotonic() + 600)
    carrier.carry(load)
    pair[1].sendall(b"e")
    assert load.left.wait(harness.DEADLINE)
    gone = weakref.ref(load)
    del load
    harness.wait_until(lambda: gone() is None, "it is let go of")


def spin() -> None:
    """Take longer than what gives way has of a round."""
    until = time.monotonic() + 2 * carrying.SHARE
    while time.monotonic() < until:
        pass


def test_what_gives_way_has_its_turn_however_long_the_streams_take(
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
    pair[1].sendall(b"there is always more")
    harness.wait_until(lambda: busy.steps, "it is asked all the time")
    carrier.call(lambda: carrier.schedule(other))
    assert other.left.wait(harness.DEADLINE)
    assert busy.left.wait(harness.DEADLINE)


def test_a_stream_goes_on_between_many_that_begin(
    carrier: Carrier, pair: tuple[socket.socket, socket.socket]
) -> None:
    order: list[str] = []
    stream = Waiting(pair[0])
    stream.step = lambda patience: (  # type: ignore
        order.append("stream"),
        setattr(stream, "ended", True),
    )
    beginning = [Waiting(due=float("inf")) for _ in range(10)]

    def step(patience: float) -> None:
        if not order:
            pair[1].sendall(b"x")
        order.append("begins")
        spin()

    def begin() -> None:
        carrier.add(stream)
        for load in beginning:
            load.step = step  # type: ignore[method-assign]
            carrier.schedule(load)

    carrier.call(begin)
    harness.wait_until(lambda: len(order) == 11, "all had their turn")
    assert order.index("stream") < 10


def test_all_are_asked_when_something_concerns_them_all(carrier: Carrier) -> None:
    loads = [Waiting(due=float("inf")) for _ in range(3)]
    for load in loads:
        carrier.carry(load)
    carrier.step_all()
    harness.wait_until(lambda: all(load.steps for load in loads), "all are asked")


def test_a_job_waits_for_a_thread_and_a_failing_one_does_not_end_it() -> None:
    workers = Workers(1)
    go_on, done = threading.Event(), threading.Event()

    def fail() -> None:
        assert go_on.wait(harness.DEADLINE)
        raise RuntimeError("a bug")

    workers.submit(fail)
    workers.submit(done.set)
    assert harness.busy(workers) == 1 and not done.is_set()
    go_on.set()
    assert done.wait(harness.DEADLINE)
    workers.close()
