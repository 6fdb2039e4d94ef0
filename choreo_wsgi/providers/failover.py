"""Several targets for one model: the reply of the first that answers is used."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..chat.items import Usage
from ..chat.source import Lane, Reply, lane_of
from ..errors import ChoreoError, Exhausted
from .routing import Target


@dataclass(eq=False)
class Breakers:
    """Circuit breakers of the targets, by label: a target that keeps failing is tried last.

    After *failures* in a row a circuit is open for *seconds*; then one request at a time may try
    the target (half-open) until one succeeds.  A label has the model's name in it, which clients
    may make up: beyond *most* labels the one that failed longest ago is dropped.
    """

    failures: int = 5
    seconds: float = 30.0
    most: int = 1024
    clock: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)
    #: The failures in a row of each label, and until when its circuit is open if they suffice.
    _failing: dict[str, tuple[int, float]] = field(default_factory=dict)

    def allows(self, label: str) -> bool:
        """Return whether the target may be tried now: by one caller only if it is half-open."""
        if label not in self._failing:
            return True
        with self._lock:
            failed, until = self._failing.get(label, (0, 0.0))
            now = self.clock()
            if failed < self.failures:
                return True
            if now >= until:
                self._failing[label] = failed, now + self.seconds
            return now >= until

    def open_circuits(self) -> set[str]:
        """Return the labels of the targets whose circuit is open."""
        with self._lock:
            now, failing = self.clock(), self._failing.items()
            return {label for label, (n, until) in failing if n >= self.failures and now < until}

    def succeeded(self, label: str) -> None:
        """Record that the target answered, which closes its circuit."""
        if label in self._failing:
            with self._lock:
                self._failing.pop(label, None)

    def failed(self, label: str) -> None:
        """Record a failure of the target."""
        with self._lock:
            failed, _ = self._failing.pop(label, (0, 0.0))
            self._failing[label] = failed + 1, self.clock() + self.seconds
            if len(self._failing) > self.most:
                del self._failing[next(iter(self._failing))]


def in_order(
    targets: Sequence[Target], random: Callable[[], float] = random.random
) -> list[Target]:
    """Return *targets* in the order in which to try them.

    Lower priority numbers come first; those of the same priority are drawn at random by weight.
    """
    if len(targets) == 1:
        return list(targets)
    # Efraimidis and Spirakis: sorting by u ** (1 / w) draws by weight without replacement.
    keyed = [
        (target.priority, -(random() ** (1 / target.weight)) if target.weight else 1.0, number)
        for number, target in enumerate(targets)
    ]
    return [targets[number] for _, _, number in sorted(keyed)]


class Failover:
    """The reply of the first of *targets* that answers.

    *begin* sends the request to a target.  If that fails before the first byte of the reply, with
    an error that another target may not have (no connection, 429, 5xx, a timeout), the next one
    is tried.  Targets whose circuit in *breakers* is open are tried only if no other remains.
    After the first byte there is no failover.
    """

    def __init__(
        self, targets: Sequence[Target], begin: Callable[[Target], Reply], breakers: Breakers
    ) -> None:
        self._remaining = list(targets)
        self._begin: Callable[[Target], Reply] | None = begin
        self._breakers = breakers
        self._answered = False
        #: The number of targets that failed so far and were followed by another.
        self.failovers = 0
        self.ended = False
        self._reply: Reply | None = None  # None until the target is tried
        self._choose()

    @property
    def label(self) -> str:
        return self._target.label if self._reply is None else self._reply.label

    @property
    def usage(self) -> Usage | None:
        return None if self._reply is None else self._reply.usage

    def _choose(self) -> None:
        """Choose the next target."""
        # allows() lets one caller through a half-open circuit: called until one target is found.
        for target in (*self._remaining, self._remaining[0]):
            self._target = target
            if self._breakers.allows(target.label):
                break
        self._remaining.remove(self._target)

    def _fail_over(self, error: ChoreoError) -> None:
        """Choose the next target after *error*, or raise it if none is to be tried."""
        # Another target may succeed unless the request or this process is at fault.
        if not isinstance(error, Exhausted) and (error.status == 429 or error.status >= 500):
            self._breakers.failed(self._target.label)
            if self._remaining and not self._answered:
                error.__traceback__ = None  # a cycle: its frames refer to the reply, that to it
                self.failovers += 1
                self._reply = None
                self._choose()
                return
        raise error

    def receive(self, timeout: float) -> bytes:
        reply = self._reply
        try:
            if reply is None:
                if self._target.provider.blocking and timeout <= 0:
                    return b""
                begin = self._begin
                assert begin is not None
                if not self._remaining:
                    self._begin = None  # it holds the request, which may be megabytes
                reply = self._reply = begin(self._target)
            data = reply.receive(timeout)
        except ChoreoError as error:
            if reply is not None:
                reply.close()
            self._fail_over(error)
            return b""
        if data or reply.ended:
            if not self._answered:
                self._answered = True
                self._begin = None
                self._breakers.succeeded(self._target.label)
            self.ended = reply.ended
        return data

    def lane(self) -> Lane | None:
        return lane_of(self._reply)

    def fileno(self) -> int | None:
        return None if self._reply is None else self._reply.fileno()

    @property
    def due(self) -> float | None:
        """When to receive again without new bytes; None while a target that may block is next."""
        if self._reply is None:
            return None if self._target.provider.blocking else 0.0
        return self._reply.due

    def close(self) -> None:
        """Stop the reply; a client that leaves is no failure of a target."""
        if self._reply is not None:
            self._reply.close()
