"""Limits that processes share in a store, and that each keeps by itself while it is away.

A place among a key's streams is a lease of a minute, which a thread renews: a process that dies
does not keep it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from .limits import MemoryCounters, Rule, State

#: Seconds for which a place is taken, between two renewals, and until a store that was away is
#: tried again.
LEASE, _RENEW, _RETRY = 60.0, 20.0, 2.0

logger = logging.getLogger(__name__)


class SharedCounters(ABC):
    """What the counters in SQLite and in Redis have in common.

    A subclass says how its store is asked; *failures* are the exceptions by which that fails.
    """

    blocking = True

    def __init__(self, *failures: type[Exception]) -> None:
        self._failures = failures
        self._own = MemoryCounters()
        self._lock = threading.Lock()
        #: The leases taken in the store, with the key and the number of streams of each.
        self._held: dict[str, tuple[str, int]] = {}
        self._later: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._process = 0  # the one whose thread runs; a fork has none
        self._retry = 0.0  # when the store may be asked again
        self._away = False

    @abstractmethod
    def admit(self, key: str, rules: Sequence[Rule], lease: str) -> tuple[int, list[State]]:
        """Do what :meth:`take` does in the store.

        Returns the number of the first rule without room, counted from 1, or 0.
        """

    @abstractmethod
    def give_back(self, key: str, rules: Sequence[Rule], lease: str) -> None:
        """Do what :meth:`settle` does in the store."""

    def give_back_now(self, key: str, rules: Sequence[Rule], lease: str) -> bool:
        """Do the same if it takes no time; return whether it is done."""
        return False

    @abstractmethod
    def renew(self, key: str, leases: Sequence[tuple[str, int]]) -> None:
        """Hold the places of *leases*, each with its number of streams, for another minute."""

    # -- Counters -----------------------------------------------------------------------------

    def take(self, key: str, rules: Sequence[Rule], lease: str) -> tuple[Rule | None, list[State]]:
        if not self._may_ask():
            return self._own.take(key, rules, lease)
        try:
            refused, states = self.admit(key, rules, lease)
        except self._failures as error:
            self._lose(error)
            return self._own.take(key, rules, lease)
        if self._away:
            self._away = False
            logger.info("the limits of keys are shared again")
        if refused:
            return rules[refused - 1], states
        self._held[lease] = (key, sum(rule.cost for rule in rules if not rule.seconds))
        if self._process != os.getpid():
            with self._lock:
                if self._process != os.getpid():
                    self._process = os.getpid()
                    threading.Thread(target=self._run, name="limits", daemon=True).start()
        return None, states

    def settle(self, key: str, rules: Sequence[Rule], lease: str) -> None:
        if self._held.pop(lease, None) is None:
            self._own.settle(key, rules, lease)
        elif not self.give_back_now(key, rules, lease):
            self._later.put(lambda: self.give_back(key, rules, lease))

    # -- while the store is away --------------------------------------------------------------

    def _may_ask(self) -> bool:
        """Return whether to ask the store; while it is away, one request in a while may."""
        with self._lock:
            now = time.monotonic()
            if self._away and now < self._retry:
                return False
            self._retry = now + _RETRY
            return True

    def _lose(self, error: Exception) -> None:
        with self._lock:
            was, self._away = self._away, True
        if not was:
            logger.warning(
                "the limits of keys cannot be shared, each process keeps its own: %s: %s",
                type(error).__name__,
                error,
            )

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except self._failures as error:
            self._lose(error)  # the minute, or the lease, ends by itself

    # -- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        due = time.monotonic() + _RENEW
        while True:
            if time.monotonic() >= due:
                due = time.monotonic() + _RENEW
                self._try(self._renew_all)
            with contextlib.suppress(queue.Empty):
                self._try(self._later.get(timeout=_RENEW))

    def _renew_all(self) -> None:
        leases: dict[str, list[tuple[str, int]]] = {}
        for lease, (key, count) in list(self._held.items()):
            if count:
                leases.setdefault(key, []).append((lease, count))
        for key, held in leases.items():
            self.renew(key, held)
