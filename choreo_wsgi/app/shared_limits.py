"""Limits that processes share in a store, and that each keeps by itself while it is away.

What a process holds of a key's streams is a lease of a minute, which a thread renews: a process
that dies does not keep it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from ..late import Late
from ..replay.backend import Unreachable
from ..replay.lua import Script
from .keys import Rule
from .limits import Counts, Limits, Settle, count

if TYPE_CHECKING:
    from ..replay import database, redis
else:
    database = Late("choreo_wsgi.replay.database")
    redis = Late("choreo_wsgi.replay.redis")

#: Seconds for which a process holds its places, between two renewals, and until a store that was
#: away is tried again.
LEASE, _RENEW, _RETRY = 60.0, 20.0, 2.0

logger = logging.getLogger(__name__)

#: Counts for a key, at a time of the store's.
Step = Callable[[Counts, float], list[Rule]]
#: Has a step change a key's counts, undisturbed; returns what that does, or raises Unreachable.
Change = Callable[[str, Step], list[Rule]]
Counted = Future["list[Rule] | None"]


def open_limits(replay: str) -> SharedLimits:
    """Return the limits in the store that the setting *replay* names."""
    path = replay.removeprefix("sqlite:")
    return SharedLimits(_in_redis(replay) if path == replay else _in_sqlite(f"{path}-limits"))


def _in_sqlite(path: str) -> Change:
    file = database.Database(Path(path))

    def change(key: str, step: Step) -> list[Rule]:
        with file.transaction() as db:
            row = db.execute("SELECT counts FROM limits WHERE key = ?", (key,)).fetchone()
            counts = json.loads(row[0]) if row else {}
            counted = step(counts, time.time())
            db.execute("REPLACE INTO limits VALUES (?, ?)", (key, json.dumps(counts)))
        return counted

    weakref.finalize(change, file.close)
    return change


# ARGV: the key's id; its counts as they were known here, and as they shall be.
_SWAP = Script("""
local name = P .. 'limit:' .. ARGV[1]
local counts = call('GET', name) or '{}'
local known = counts == ARGV[2]
if known then call('SET', name, ARGV[3], 'EX', 86400) end
return {known and 1 or 0, counts, unpack(call('TIME'))}
""")


def _in_redis(url: str) -> Change:
    client = redis.connect(url)
    known: dict[str, bytes] = {}  # as they were left: mostly nobody has come between
    ahead = 0.0  # how far its clock is before ours

    def change(key: str, step: Step) -> list[Rule]:
        nonlocal ahead
        swapped = 0
        while not swapped:
            was = known.get(key, b" {}")  # which is not what is there: first its clock is read
            counts = json.loads(was)
            counted = step(counts, time.time() + ahead)
            new = json.dumps(counts).encode()
            swapped, was, seconds, microseconds = redis.run(client, _SWAP, key, was, new)
            known[key] = new if swapped else was
            ahead = int(seconds) + int(microseconds) / 1e6 - time.time()
        return counted

    return change


class SharedLimits(Limits):
    """Counts by *change*, in a thread of its own, or in this process while the store is away."""

    blocking = True

    def __init__(self, change: Change) -> None:
        super().__init__()
        self._change = change
        self._keys: set[str] = set()  # those that had places here
        self._todo = SimpleQueue[tuple[str, Sequence[Rule], Counted] | None]()
        self._process, self._holder = 0, ""  # the one whose thread runs; a fork has none
        self._retry = 0.0  # when a store that is away may be asked again

    def take(self, key: str, rules: Sequence[Rule]) -> tuple[list[Rule], Settle]:
        self._keys.update(key for rule in rules if not rule.seconds)
        counted = self._put(key, rules).result() if time.monotonic() >= self._retry else None
        return super().take(key, rules) if counted is None else (counted, partial(self._put, key))

    def _put(self, key: str, rules: Sequence[Rule]) -> Counted:
        """Have *rules* added, after all that was put before; the answer is None without a store."""
        with self._lock:
            if self._process != os.getpid():
                self._process, self._holder = os.getpid(), secrets.token_hex(8)
                self._todo = SimpleQueue()
                threading.Thread(target=self._run, name="limits", daemon=True).start()
        counted = Counted()
        self._todo.put((key, rules, counted))
        return counted

    def _run(self) -> None:
        due = time.monotonic() + _RENEW
        while True:
            if time.monotonic() >= due:
                due = time.monotonic() + _RENEW
                self.renew()
            with contextlib.suppress(Empty):
                todo = self._todo.get(timeout=max(0.0, due - time.monotonic()))
                if todo is None:
                    return
                key, rules, counted = todo
                try:
                    counted.set_result(self._add(key, rules))
                except Exception as error:  # what the store holds is not ours
                    counted.set_exception(error)

    def _add(self, key: str, rules: Sequence[Rule]) -> list[Rule] | None:
        if time.monotonic() < self._retry:
            return None
        if self._retry:
            self._retry = time.monotonic() + _RETRY  # the others do not wait for this one
        try:
            answer = self._change(key, partial(count, rules, holder=self._holder, lease=LEASE))
        except Unreachable as error:  # what is not given back ends with its minute or its lease
            if not self._retry:
                text = "the limits of keys cannot be shared, each process keeps its own: %s"
                logger.warning(text, error)
            self._retry = time.monotonic() + _RETRY
            return None
        if self._retry:
            self._retry = 0.0
            logger.info("the limits of keys are shared again")
        return answer

    def close(self) -> None:
        self._todo.put(None)

    def renew(self) -> None:
        """Have the thread hold this process's places for another LEASE."""
        for key in tuple(self._keys):
            self._put(key, [Rule("max_streams", sys.maxsize, 0)])
