"""Limits that processes share in a store, and that each keeps by itself while it is away.

What a process holds of a key's streams is a lease of a minute, which a thread renews: a process
that dies does not keep it.
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
from functools import partial

from ..replay.backend import Change, Unreachable
from .keys import Rule
from .limits import Limits, Settle, count

#: Seconds for which a process holds its places, between two renewals, and until a store that was
#: away is tried again.
LEASE, _RENEW, _RETRY = 60.0, 20.0, 2.0

logger = logging.getLogger(__name__)


class SharedLimits(Limits):
    """Counts by *change*, in a thread of its own, or in this process while the store is away."""

    blocking = True

    def __init__(self, change: Change) -> None:
        super().__init__()
        self._change = change
        self._keys: set[str] = set()  # those that had places here
        self._process, self._holder = 0, ""  # the one whose threads run; a fork has none
        self._retry = 0.0  # when a store that is away may be asked again

    def take(self, key: str, rules: Sequence[Rule]) -> tuple[list[Rule], Settle]:
        self._keys.update(key for rule in rules if not rule.seconds)
        counted = self._put(key, rules).result() if time.monotonic() >= self._retry else None
        return super().take(key, rules) if counted is None else (counted, partial(self._put, key))

    def _put(self, key: str, rules: Sequence[Rule]) -> Future[list[Rule] | None]:
        """Have *rules* added, after all that was put before; the answer is None without a store."""
        with self._lock:
            if self._process != os.getpid():
                self._process, self._holder = os.getpid(), secrets.token_hex(8)
                self._closed, self._worker = threading.Event(), ThreadPoolExecutor(1, "limits")
                threading.Thread(target=self._hold, name="limits", daemon=True).start()
            return self._worker.submit(self._add, key, rules)

    def _add(self, key: str, rules: Sequence[Rule]) -> list[Rule] | None:
        if time.monotonic() < self._retry:
            return None
        if was_away := bool(self._retry):
            self._retry = time.monotonic() + _RETRY  # the others do not wait for this one
        try:
            step = partial(count, rules, holder=self._holder, lease=LEASE)
            counted: list[Rule] = self._change(key, step)
        except Unreachable as error:  # what is not given back ends with its minute or its lease
            self._retry = time.monotonic() + _RETRY
            if not was_away:
                logger.warning("limits cannot be shared, each process keeps its own: %s", error)
            return None
        if was_away:
            self._retry = 0.0
            logger.info("limits are shared again")
        return counted

    def _hold(self) -> None:
        while not self._closed.wait(_RENEW):
            self.renew()

    def renew(self) -> None:
        """Have this process's places held for another LEASE."""
        for key in tuple(self._keys):
            self._put(key, [Rule("max_streams", sys.maxsize, 0)])

    def close(self) -> None:
        with self._lock:
            if self._process:
                self._process = 0  # who comes later begins anew
                self._closed.set()
                self._worker.shutdown(wait=False)
