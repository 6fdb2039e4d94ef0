"""Several targets for one model."""

from __future__ import annotations

import contextlib
import copy
import random
import threading
import weakref
from collections import Counter
from collections.abc import Callable

import pytest

from choreo_wsgi.chat.items import Usage
from choreo_wsgi.errors import (
    ChoreoError,
    Exhausted,
    InvalidRequest,
    ModelNotFound,
    ProviderError,
    ProviderNotConfigured,
    ProviderTimeout,
    RateLimited,
    UpstreamTruncated,
)
from choreo_wsgi.providers.echo import Echo
from choreo_wsgi.providers.failover import Breakers, Failover, in_order
from choreo_wsgi.settings import Settings


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Answering:
    """The frames of one target: each step is bytes, or an error to raise."""

    def __init__(self, label: str, *steps: bytes | Exception) -> None:
        self.label = label
        self._steps = list(steps)
        self.usage: Usage | None = None
        self.due = 7.0
        self.ended = False
        self.closed = 0

    def receive(self, timeout: float) -> bytes:
        step = self._steps.pop(0)
        if isinstance(step, Exception):
            raise step
        self.ended = not self._steps
        return step

    def fileno(self) -> int | None:
        return None

    def close(self) -> None:
        self.closed += 1


class Target:
    """A target that records its answers; *refuses* is raised by ``begin``."""

    provider = Echo("echo", {}, Settings())
    breakers: Breakers  # of one test

    def __init__(
        self,
        label: str,
        *steps: bytes | Exception,
        refuses: ChoreoError | None = None,
        priority: int = 0,
        weight: float = 1.0,
    ) -> None:
        self.priority, self.weight = priority, weight
        self.label = label
        self.steps = steps
        self.refuses = refuses
        self.answers: list[Answering] = []

    def allowed(self) -> bool:
        return self.breakers.allows(self.label)

    def begin(self) -> Answering:
        if self.refuses:
            raise self.refuses
        self.answers.append(Answering(self.label, *self.steps))
        return self.answers[-1]


@pytest.fixture(autouse=True)
def breakers(monkeypatch: pytest.MonkeyPatch) -> Breakers:
    made = Breakers(failures=2, seconds=30, clock=Clock())
    monkeypatch.setattr(Target, "breakers", made, raising=False)
    return made


def failover_of(*targets: Target) -> Failover:
    return Failover(targets, Target.begin, Target.breakers)


def read(*targets: Target) -> tuple[bytes, str]:
    """Return the bytes that a caller of *targets* reads, and the label of their target."""
    failover = failover_of(*targets)
    blocks = []
    while not failover.ended:
        blocks.append(failover.receive(0))
    failover.close()
    return b"".join(blocks), failover.label


# -- failing over -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "late"),
    [
        (ProviderNotConfigured("no key"), False),
        (RateLimited("slower", retry_after=3), True),
        (ChoreoError("overloaded", status=529), True),
    ],
)
def test_fails_over_before_the_first_byte(error: ChoreoError, late: bool) -> None:
    first = Target("a", b"", error) if late else Target("a", refuses=error)
    assert read(first, Target("b", b"x", b"y")) == (b"xy", "b")
    assert all(answer.closed for answer in first.answers)


def test_tries_targets_in_turn_and_raises_the_last_error() -> None:
    failing = [Target("a", ProviderTimeout("1")), Target("b", refuses=ProviderError("2"))]
    assert read(*failing, Target("c", b"x")) == (b"x", "c")
    with pytest.raises(RateLimited, match="3"):
        read(*failing, Target("c", RateLimited("3")))
    with pytest.raises(ProviderError, match="2"):
        read(*failing)


@pytest.mark.parametrize(
    ("error", "late"), [(InvalidRequest("bad"), False), (ModelNotFound("what"), True)]
)
def test_a_clients_error_is_raised_without_failover(error: ChoreoError, late: bool) -> None:
    first = Target("a", b"", error) if late else Target("a", refuses=error)
    second = Target("b", b"x")
    with pytest.raises(type(error)):
        read(first, second)
    assert second.answers == []
    for _ in range(5):  # nor does it count against the target
        with pytest.raises(type(error)):
            read(first)
    assert first.allowed()


def test_never_fails_over_after_the_first_byte() -> None:
    second = Target("b", b"x")
    with pytest.raises(UpstreamTruncated):
        read(Target("a", b"", b"a", UpstreamTruncated("cut")), second)
    assert second.answers == []


def test_an_empty_answer_is_not_failed_over() -> None:
    assert read(Target("a", b""), Target("b", b"x")) == (b"", "a")


class Waiting(Answering):
    """An answer that has no bytes yet."""

    def receive(self, timeout: float) -> bytes:
        return b""


def test_releases_the_request_when_no_target_is_left() -> None:
    """The wait for a first byte may last minutes, and must not hold megabytes."""

    def begin(target: Target) -> Answering:
        return Waiting(target.label)

    held = weakref.ref(begin)
    failover = Failover([Target("a")], begin, Target.breakers)
    del begin
    assert failover.receive(0) == b"" and held() is None


def test_releases_the_request_when_a_target_answers() -> None:
    def begin(target: Target) -> Answering:
        return target.begin()

    held = weakref.ref(begin)
    failover = Failover([Target("a", b"x", b"y"), Target("b")], begin, Target.breakers)
    del begin
    assert failover.receive(0) == b"x" and held() is None


def test_a_blocking_provider_begins_only_in_a_blocking_read() -> None:
    target = Target("a", b"x")
    target.provider = copy.copy(Target.provider)
    target.provider.blocking = True
    failover = failover_of(target)
    assert failover.receive(0) == b"" and failover.due is None and not target.answers
    assert failover.receive(0.1) == b"x"


def test_a_bug_is_not_failed_over() -> None:
    second = Target("b", b"x")
    with pytest.raises(ZeroDivisionError):
        read(Target("a", ZeroDivisionError()), second)
    assert second.answers == []


def test_exhausted_is_neither_failed_over_nor_counted() -> None:
    first, second = Target("a", refuses=Exhausted("no descriptor")), Target("b", b"x")
    for _ in range(20):
        with pytest.raises(Exhausted):
            read(first, second)
    assert not second.answers and first.allowed()


def test_a_client_that_leaves_does_not_count_as_a_failure() -> None:
    target = Target("a", b"", b"x", b"y")
    for reads in (0, 1, 2) * 3:
        failover = failover_of(target)
        for _ in range(reads):
            failover.receive(0)
        failover.close()
        assert all(answer.closed for answer in target.answers)
    assert target.allowed()


def test_usage_and_label_are_those_of_the_answering_target() -> None:
    target = Target("b", b"x", b"y")
    failover = failover_of(Target("a", ProviderTimeout("")), target)
    assert failover.label == "a"
    assert failover.receive(0) == b"" and not failover.ended
    assert failover.label == "b" and failover.usage is None
    assert failover.receive(0) == b"x"
    target.answers[0].usage, target.answers[0].label = Usage(1, 2), "b/real"
    assert (failover.usage, failover.label, failover.due) == (Usage(1, 2), "b/real", 7.0)
    failover.close()


# -- order ------------------------------------------------------------------------------------


def labels(targets: list[Target]) -> list[str]:
    return [target.label for target in targets]


def named(**targets: tuple[int, float]) -> list[Target]:
    return [Target(name, priority=how[0], weight=how[1]) for name, how in targets.items()]


def test_the_lowest_priority_number_comes_first() -> None:
    targets = named(c=(3, 100.0), a=(-1, 0.1), b=(2, 1.0))
    assert labels(in_order(targets)) == ["a", "b", "c"]


def test_targets_of_one_priority_are_drawn_by_weight() -> None:
    targets = named(heavy=(0, 3.0), light=(0, 1.0), later=(1, 100.0))
    draw = random.Random(7).random
    orders = Counter(tuple(labels(in_order(targets, draw))) for _ in range(2000))
    assert set(orders) == {("heavy", "light", "later"), ("light", "heavy", "later")}
    assert 0.70 < orders[("heavy", "light", "later")] / 2000 < 0.80


def test_weight_zero_is_a_last_resort() -> None:
    targets = named(never=(0, 0.0), one=(0, 1.0), two=(0, 1e-9))
    for _ in range(100):
        assert labels(in_order(targets))[-1] == "never"


@pytest.mark.parametrize("draw", [lambda: 0.0, lambda: 1.0 - 2**-53])
def test_draws_at_the_ends_of_the_random_range(draw: Callable[[], float]) -> None:
    targets = named(a=(0, 1.0), b=(0, 1e-300), c=(0, 1e300), d=(0, 5e-324))
    assert len(in_order(targets, draw)) == 4


# -- the circuit ------------------------------------------------------------------------------


def breaker(clock: Clock) -> Breakers:
    return Breakers(failures=3, seconds=30, clock=clock)


def test_circuit_opens_after_consecutive_failures_then_half_opens() -> None:
    clock = Clock()
    circuit = breaker(clock)
    for _ in range(2):
        circuit.failed("a")
        assert circuit.allows("a") and circuit.allows("a")
    circuit.failed("a")
    assert not circuit.allows("a")
    clock.now += 29.9
    assert not circuit.allows("a")
    clock.now += 0.1
    assert circuit.allows("a")
    assert not circuit.allows("a"), "one at a time"


def test_five_failures_open_a_circuit_for_thirty_seconds() -> None:
    circuit = Breakers(clock=Clock())
    for _ in range(5):
        assert circuit.allows("a")
        circuit.failed("a")
    circuit.clock.now += 29.9  # type: ignore[attr-defined]
    assert not circuit.allows("a")
    circuit.clock.now += 0.1  # type: ignore[attr-defined]
    assert circuit.allows("a")


def test_a_success_closes_the_circuit() -> None:
    clock = Clock()
    circuit = breaker(clock)
    for _ in range(3):
        circuit.failed("a")
    clock.now += 30
    assert circuit.allows("a")
    circuit.succeeded("a")
    assert circuit.allows("a") and circuit.allows("a")
    for _ in range(2):
        circuit.failed("a")
    assert circuit.allows("a"), "earlier failures no longer count"


def test_only_consecutive_failures_count() -> None:
    circuit = breaker(Clock())
    for _ in range(10):
        circuit.failed("a")
        circuit.failed("a")
        circuit.succeeded("a")
    assert circuit.allows("a")


def test_a_failed_trial_opens_the_circuit_for_its_full_time() -> None:
    clock = Clock()
    circuit = breaker(clock)
    for _ in range(3):
        circuit.failed("a")
    clock.now += 35
    assert circuit.allows("a")
    clock.now += 5
    circuit.failed("a")
    clock.now += 29.9
    assert not circuit.allows("a")
    clock.now += 0.1
    assert circuit.allows("a")


def test_an_abandoned_trial_is_followed_by_another() -> None:
    clock = Clock()
    circuit = breaker(clock)
    for _ in range(3):
        circuit.failed("a")
    clock.now += 30
    assert circuit.allows("a")  # its client leaves: neither a success nor a failure
    assert not circuit.allows("a")
    clock.now += 30
    assert circuit.allows("a")


def test_only_one_of_many_threads_tries_a_half_open_circuit() -> None:
    clock = Clock()
    circuit = breaker(clock)
    for _ in range(3):
        circuit.failed("a")
    clock.now += 30
    start, inside = threading.Barrier(8), threading.Barrier(2)
    allowed: list[bool] = []

    def meet() -> float:
        """Return the time, once a second thread has entered too, if there is no lock."""
        with contextlib.suppress(threading.BrokenBarrierError):
            inside.wait(0.05)
        return clock.now

    circuit.clock = meet

    def try_once() -> None:
        start.wait()
        allowed.append(circuit.allows("a"))

    threads = [threading.Thread(target=try_once) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(allowed) == [False] * 7 + [True]


def test_a_target_with_an_open_circuit_is_tried_last() -> None:
    failing, other = Target("a", ProviderTimeout("")), Target("b", b"x")
    for _ in range(2):
        assert read(failing, other) == (b"x", "b")
    assert len(failing.answers) == 2
    assert read(failing, other) == (b"x", "b")
    assert len(failing.answers) == 2, "its circuit is open"
    other.steps = (ProviderError(""),)
    with pytest.raises(ProviderTimeout):
        read(failing, other)
    assert len(failing.answers) == 3


def test_with_all_circuits_open_an_answer_closes_its_own() -> None:
    first, second = Target("a", ProviderTimeout("")), Target("b", ProviderTimeout(""))
    for _ in range(2):
        with pytest.raises(ProviderTimeout):
            read(first, second)
    first.steps = (b"x",)
    assert read(first, second) == (b"x", "a")
    assert first.allowed() and not second.allowed()
    assert len(second.answers) == 2, "its circuit is open"


def test_an_answer_closes_the_circuit_of_its_target() -> None:
    target = Target("a", ProviderTimeout(""))
    for _ in range(3):
        with pytest.raises(ProviderTimeout):
            read(target)
        target.steps = (b"x",)
        assert read(target) == (b"x", "a")
        assert target.allowed() and target.allowed()
        target.steps = (ProviderTimeout(""),)


def test_a_sole_target_is_always_tried() -> None:
    target = Target("a", ProviderTimeout(""))
    for tried in range(1, 6):
        with pytest.raises(ProviderTimeout):
            read(target)
        assert len(target.answers) == tried


def test_a_half_open_circuit_keeps_its_trial_if_unneeded(
    breakers: Breakers,
) -> None:
    first, second = Target("a", b"x"), Target("b", ProviderTimeout(""))
    clock = breakers.clock = Clock()
    for _ in range(2):
        breakers.failed("b")
    clock.now += 30
    assert read(first, second) == (b"x", "a")
    assert second.allowed()


def test_open_circuits_exclude_single_failures() -> None:
    clock = Clock()
    breakers = Breakers(failures=2, seconds=30, clock=clock)
    breakers.failed("a")
    assert breakers.open_circuits() == set()
    breakers.failed("a")
    assert breakers.open_circuits() == {"a"}
    clock.now += 30
    assert breakers.open_circuits() == set()


def test_remembers_only_the_labels_that_failed_last() -> None:
    breakers = Breakers(failures=1, most=3)
    for label in "abcade":
        breakers.failed(label)
    assert breakers.open_circuits() == {*"ade"}
    assert breakers.allows("b") and not breakers.allows("a")
    breakers.succeeded("a")
    assert breakers.open_circuits() == {*"de"} and breakers.allows("a")
