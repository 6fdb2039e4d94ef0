"""Limits that processes share in a store, and that each keeps by itself while it is away.

What a process holds of a key's streams is a lease of a minute, which a thread renews: a process
that dies does not keep it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..late import Late
from ..replay.backend import Unreachable
from ..replay.lua import Script
from .limits import NO_LIMIT, Counters, Rule, Settle, State, count

if TYPE_CHECKING:
    from ..replay import database, redis
else:
    database = Late("choreo_wsgi.replay.database")
    redis = Late("choreo_wsgi.replay.redis")

#: Seconds for which a process holds its places, between two renewals, and until a store that was
#: away is tried again.
LEASE, _RENEW, _RETRY = 60.0, 20.0, 2.0

logger = logging.getLogger(__name__)


#: Does what limits.count does for the key of an id and a holder, in one step for all processes;
#: raises Unreachable, at once if it may not wait, as the flag says.
Add = Callable[[str, Sequence[Rule], str, bool], tuple[int, list[State]]]


def open_counters(replay: str) -> SharedCounters:
    """Return the counters in the store that the setting *replay* names."""
    if replay.startswith("sqlite:"):
        return SharedCounters(_in_sqlite(Path(replay.removeprefix("sqlite:") + "-limits")))
    return SharedCounters(_in_redis(replay))


def _in_sqlite(path: Path) -> Add:
    file = database.Database(path)

    def add(key: str, rules: Sequence[Rule], holder: str, wait: bool) -> tuple[int, list[State]]:
        with file.transaction(wait=wait) as db:
            row = db.execute("SELECT counts FROM limits WHERE key = ?", (key,)).fetchone()
            counts = json.loads(row[0]) if row else {}
            answer = count(counts, rules, time.time(), holder, LEASE)
            db.execute("REPLACE INTO limits VALUES (?, ?)", (key, json.dumps(counts)))
        return answer

    weakref.finalize(add, file.close)
    return add


# ARGV: the key's id; as JSON the rules, the holder and the seconds of its lease.
_ADD = Script("""
local name, asked = P .. 'limit:' .. ARGV[1], cjson.decode(ARGV[2])
local rules, holder, lease = unpack(asked)
local time = call('TIME')
local now = time[1] + time[2] / 1000000
local counts = cjson.decode(call('GET', name) or '{}')
local refused, states, changed = 0, {}, {}
for number, rule in ipairs(rules) do
  local name, limit, seconds, cost = unpack(rule)
  local used, ends, reset = unpack(counts[name] or {0, 0})
  if seconds > 0 then
    if ends <= now then used, ends = 0, now + seconds end
    changed[name], reset = {math.max(0, used + cost), ends}, ends - now
  else
    local held = {}
    used, reset = 0, 1
    for other, places in pairs(counts[name] or {}) do
      if places[2] > now then held[other], used = places, used + places[1] end
    end
    local mine = held[holder] and held[holder][1] or 0
    held[holder] = {math.max(0, mine + cost), now + lease}
    changed[name] = held
  end
  if used + cost > limit and refused == 0 then refused = number end
  states[number] = {limit - used, reset}
end
if refused == 0 then
  for rule, value in pairs(changed) do counts[rule] = value end
  call('SET', name, cjson.encode(counts), 'EX', 86400)
end
return cjson.encode({refused, states})
""")


def _in_redis(url: str) -> Add:
    client = redis.connect(url)
    # Fewer than the pool has connections: waiting for one is no sign that Redis is away.
    few = threading.BoundedSemaphore(8)

    def add(key: str, rules: Sequence[Rule], holder: str, wait: bool) -> tuple[int, list[State]]:
        if not wait:
            raise Unreachable("it is asked through a network")
        with few:
            answer = redis.run(client, _ADD, key, json.dumps([rules, holder, LEASE]))
        refused, states = json.loads(answer)
        return refused, [State(*state) for state in states]

    return add


class SharedCounters(Counters):
    """Counts with *add*, or as any counters within this process while its store is away."""

    blocking = True

    def __init__(self, add: Add) -> None:
        super().__init__()
        self._add = add
        self._name = secrets.token_hex(4)
        self._keys: set[str] = set()  # those that had places here
        self._later: queue.SimpleQueue[tuple[str, Sequence[Rule]]] = queue.SimpleQueue()
        self._process = 0  # the one whose thread runs; a fork has none
        self._retry = 0.0  # when the store may be asked again
        self._away = False

    def take(self, key: str, rules: Sequence[Rule]) -> tuple[int, list[State], Settle]:
        with self._lock:
            now = time.monotonic()
            may_ask = not self._away or now >= self._retry  # one request in a while
            self._retry = now + _RETRY if may_ask else self._retry
            self._keys.update(key for rule in rules if not rule.seconds)
            if self._process != os.getpid():
                self._process = os.getpid()
                threading.Thread(target=self._run, name="limits", daemon=True).start()
        if may_ask:
            with self._losing():
                refused, states = self._ask(key, rules)
                if self._away:
                    self._away = False
                    logger.info("the limits of keys are shared again")
                return refused, states, partial(self._settle, key)
        return super().take(key, rules)

    def _settle(self, key: str, rules: Sequence[Rule]) -> None:
        try:  # then the next request finds the place free
            self._ask(key, rules, wait=False)
        except Unreachable:
            self._later.put((key, rules))

    def _ask(
        self, key: str, rules: Sequence[Rule], *, wait: bool = True
    ) -> tuple[int, list[State]]:
        return self._add(key, rules, f"{self._name}-{os.getpid()}", wait)

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        """Go on without the store if it is away."""
        try:
            yield
        except Unreachable as error:
            with self._lock:
                was, self._away = self._away, True
            if not was:
                text = "the limits of keys cannot be shared, each process keeps its own: %s"
                logger.warning(text, error)

    def _run(self) -> None:
        due = time.monotonic() + _RENEW
        while True:
            if time.monotonic() >= due:
                due = time.monotonic() + _RENEW
                self.renew()
            # What fails here ends by itself, with the minute or with the lease.
            with contextlib.suppress(queue.Empty), self._losing():
                self._ask(*self._later.get(timeout=_RENEW))

    def renew(self) -> None:
        """Have the thread hold this process's places for another LEASE."""
        for key in tuple(self._keys):
            self._later.put((key, [Rule("streams", NO_LIMIT, 0, 0)]))
