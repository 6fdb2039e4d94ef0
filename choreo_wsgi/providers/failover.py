"""Several targets for one model: the first that answers is the one the caller hears."""

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
    """The targets that keep failing, by label, so that they are not asked first every time.

    After *failures* in a row a circuit is open for *seconds*; then one request at a time may try
    (half-open) until one succeeds.  A label holds the model's name, which is the caller's word
    where a provider takes any: beyond *most* the one that failed longest ago is forgotten.
    """

    failures: int = 5
    seconds: float = 30.0
    most: int = 1024
    clock: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)
    #: How often each failed in a row, and until when it is left out if that is often enough.
    _failing: dict[str, tuple[int, float]] = field(default_factory=dict)

    def allows(self, label: str) -> bool:
        """Whether the target may be asked now; in a half-open circuit only one caller may."""
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
        """Return the targets that are left out now."""
        with self._lock:
            now, failing = self.clock(), self._failing.items()
            return {label for label, (n, until) in failing if n >= self.failures and now < until}

    def succeeded(self, label: str) -> None:
        """The target answered."""
        if label in self._failing:
            with self._lock:
                self._failing.pop(label, None)

    def failed(self, label: str) -> None:
        """The target did not answer as it should."""
        with self._lock:
            failed, _ = self._failing.pop(label, (0, 0.0))
            self._failing[label] = failed + 1, self.clock() + self.seconds
            if len(self._failing) > self.most:
                del self._failing[next(iter(self._failing))]


def in_order(
    targets: Sequence[Target], random: Callable[[], float] = random.random
) -> list[Target]:
    """Return *targets* in the order to ask them.

    Lower priority numbers come first; those of one priority are drawn by weight.
    """
    if len(targets) == 1:
        return list(targets)
    # Efraimidis and Spirakis: sorting by u ** (1 / w) draws by weight without replacement.
    keyed = [
        (item.priority, -(random() ** (1 / item.weight)) if item.weight else 1.0, place)
        for place, item in enumerate(targets)
    ]
    return [targets[place] for _, _, place in sorted(keyed)]


class Failover:
    """Reads from the first of *targets* that answers; itself a reply.

    *begin* asks one of them; *breakers* knows which keep failing.  One that fails before
    its first byte with something that another could do better (no connection, 429, 5xx,
    a timeout) is passed over for the next.  Those with an open circuit are asked only when nobody
    else is left.  After the first byte nothing is tried again.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        begin: Callable[[Target], Reply],
        breakers: Breakers,
    ) -> None:
        self._left = list(targets)
        self._begin: Callable[[Target], Reply] | None = begin
        self._breakers = breakers
        self._answered = False
        #: How many targets were passed over so far.
        self.failovers = 0
        self.ended = False
        self._reading: Reply | None = None  # nobody is asked before the first receive()
        self._choose()

    @property
    def label(self) -> str:
        return self._target.label if self._reading is None else self._reading.label

    @property
    def usage(self) -> Usage | None:
        return None if self._reading is None else self._reading.usage

    def _choose(self) -> None:
        """Choose whom to ask next."""
        # A half-open circuit lets one caller try: it is asked only when its turn has come.
        for target in (*self._left, self._left[0]):
            self._target = target
            if self._breakers.allows(target.label):
                break
        self._left.remove(self._target)

    def _pass_over(self, error: ChoreoError) -> None:
        """Raise *error* unless the next target is to be asked."""
        # Another target could do better, unless the request or this process is at fault.
        if not isinstance(error, Exhausted) and (error.status == 429 or error.status >= 500):
            self._breakers.failed(self._target.label)
            if self._left and not self._answered:
                self.failovers += 1
                self._reading = None
                self._choose()
                return
        raise error

    def receive(self, timeout: float) -> bytes:
        """Return what came within *timeout* seconds from whoever answers."""
        reading = self._reading
        try:
            if reading is None:
                if self._target.provider.blocking and timeout <= 0:
                    return b""
                begin = self._begin
                assert begin is not None
                if not self._left:
                    self._begin = None  # it holds the request, which may be megabytes
                reading = self._reading = begin(self._target)
            block = reading.receive(timeout)
        except ChoreoError as error:
            if reading is not None:
                reading.close()
            self._pass_over(error)
            return b""
        if block or reading.ended:
            if not self._answered:
                self._answered = True
                self._begin = None
                self._breakers.succeeded(self._target.label)
            self.ended = reading.ended
        return block

    def lane(self) -> Lane | None:
        return lane_of(self._reading)

    def fileno(self) -> int | None:
        return None if self._reading is None else self._reading.fileno()

    @property
    def due(self) -> float | None:
        """When to ask again although nothing came; None before a target that may block."""
        if self._reading is None:
            return None if self._target.provider.blocking else 0.0
        return self._reading.due

    def close(self) -> None:
        """Stop whoever answers; a client that leaves is no failure of a target."""
        if self._reading is not None:
            self._reading.close()
