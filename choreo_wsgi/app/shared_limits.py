"""Limits that several processes share in a store; while it is unreachable each counts alone.

A process has its count of a key's streams as a lease of a minute, which a thread renews: after a
process has died its lease expires.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from ..replay.backend import Change, Unreachable
from .keys import Rule
from .limits import Limits, Settle, count

#: Seconds: the length of a lease, between two renewals, and until an unreachable store is retried.
LEASE, _RENEW, _RETRY = 60.0, 20.0, 2.0

logger = logging.getLogger(__name__)


class SharedLimits(Limits):
    """Counts in a store by *change*, on its own thread, or locally while that is unreachable."""

    blocking = True

    def __init__(self, change: Change) -> None:
        super().__init__()
        self._change = change
        self._keys: set[str] = set()  # the keys whose streams were counted here
        self._process, self._holder = 0, ""  # the process that runs the threads: not its forks
        self._retry = 0.0  # when to retry an unreachable store; 0 while it is reachable

    def take(self, key: str, rules: Sequence[Rule]) -> tuple[list[Rule], Settle]:
        self._keys.update(key for rule in rules if not rule.seconds)
        counted = self._put(key, rules).result() if time.monotonic() >= self._retry else None
        return super().take(key, rules) if counted is None else (counted, partial(self._put, key))

    def _put(self, key: str, rules: Sequence[Rule]) -> Future[list[Rule] | None]:
        """Queue *rules* for counting, in order; the result is None without a store."""
        with self._lock:
            if self._process != os.getpid():
                self._process, self._holder = os.getpid(), secrets.token_hex(8)
                self._closed, self._worker = threading.Event(), ThreadPoolExecutor(1, "limits")
                renew = partial(self._renew_leases, self._closed)
                threading.Thread(target=renew, name="limits", daemon=True).start()
            return self._worker.submit(self._add, key, rules)

    def _add(self, key: str, rules: Sequence[Rule]) -> list[Rule] | None:
        if time.monotonic() < self._retry:
            return None
        if was_away := bool(self._retry):
            self._retry = time.monotonic() + _RETRY  # meanwhile other requests do not wait
        try:
            step = partial(count, rules, holder=self._holder, lease=LEASE)
            counted: list[Rule] = self._change(key, step)
        except Unreachable as error:  # counts not given back expire with their minute or lease
            self._retry = time.monotonic() + _RETRY
            if not was_away:
                logger.warning("limits cannot be shared, each process keeps its own: %s", error)
            return None
        if was_away:
            self._retry = 0.0
            logger.info("limits are shared again")
        return counted

    def _renew_leases(self, closed: threading.Event) -> None:
        while not closed.wait(_RENEW):
            self.renew()

    def renew(self) -> None:
        """Renew the leases of this process for another LEASE."""
        with suppress(RuntimeError):  # closed meanwhile; _put() would start new threads
            for key in tuple(self._keys):
                self._worker.submit(self._add, key, [Rule("max_streams", sys.maxsize, 0)])

    def close(self) -> None:
        with self._lock:
            if self._process:
                self._process = 0  # the next request starts new threads
                self._closed.set()
                self._worker.shutdown(wait=False)
