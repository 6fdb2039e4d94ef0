"""The counters of limits in Redis, so that replicas share them.

A request is admitted by one script, so the limits are exact over all replicas.  What a stream
gives back at its end is sent by a thread, because the thread that carries streams must not wait.
A place among a key's streams is a lease of a minute, which that thread renews: a replica that
dies does not keep it.  While Redis is away each process counts by itself.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any

import redis

from ..replay.redis import connect
from .limits import MemoryCounters, Rule, State

_PREFIX = "{choreo}:limit:"
_LEASE_MS = 60_000
_RENEW = 20.0  # seconds between two renewals
_RETRY = 2.0  # seconds until Redis is tried again

# KEYS: one for each rule.  ARGV: lease, its milliseconds, then limit, period and cost of each.
_TAKE = """
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local answer = {0}
for i, key in ipairs(KEYS) do
  local limit, period = tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  local cost = tonumber(ARGV[3 * i + 2])
  local used, reset = 0, 1000
  if period == 0 then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    used = redis.call('ZCARD', key)
  else
    used, reset = tonumber(redis.call('GET', key) or '0'), redis.call('PTTL', key)
    if reset < 0 then reset = period end
  end
  if answer[1] == 0 and used + cost > limit then answer[1] = i end
  answer[2 * i], answer[2 * i + 1] = limit - used, reset
end
if answer[1] ~= 0 then return answer end
for i, key in ipairs(KEYS) do
  local period, cost = tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2])
  if period == 0 then
    for n = 1, cost do redis.call('ZADD', key, now + ARGV[2], ARGV[1] .. ':' .. n) end
    redis.call('PEXPIRE', key, ARGV[2])
  else
    redis.call('INCRBY', key, cost)
    if redis.call('PTTL', key) < 0 then redis.call('PEXPIRE', key, period) end
  end
  answer[2 * i] = answer[2 * i] - cost
end
return answer
"""

# KEYS: one for each rule.  ARGV: lease, then period and change of each.
_SETTLE = """
for i, key in ipairs(KEYS) do
  local period, change = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  if period == 0 then
    for n = 1, -change do redis.call('ZREM', key, ARGV[1] .. ':' .. n) end
  else
    local used = tonumber(redis.call('GET', key) or '0')
    local rest = redis.call('PTTL', key)
    redis.call('SET', key, math.max(0, used + change), 'PX', rest > 0 and rest or period)
  end
end
"""

# KEYS: the streams of a key.  ARGV: the lease's milliseconds, then the members to renew.
_RENEWAL = """
local now = redis.call('TIME')
local ends = now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[1]
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', ends, ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
"""

logger = logging.getLogger(__name__)

_Settlement = tuple[str, Sequence[Rule], str]


class RedisCounters:
    """Counts in the Redis at *url*; nothing is connected before the first use."""

    blocking = True

    def __init__(self, url: str) -> None:
        client = connect(url)
        self._take: Any = client.register_script(_TAKE)
        self._settle: Any = client.register_script(_SETTLE)
        self._renewal: Any = client.register_script(_RENEWAL)
        self._own = MemoryCounters()
        # Fewer than the pool has connections: waiting for one is no sign that Redis is away.
        self._few = threading.BoundedSemaphore(8)
        self._lock = threading.Lock()
        #: The leases taken in Redis, with the key and the number of streams of each.
        self._held: dict[str, tuple[str, int]] = {}
        self._ended: queue.SimpleQueue[_Settlement] = queue.SimpleQueue()
        self._process = 0  # the one whose thread runs; a fork has none
        self._retry = 0.0  # when Redis may be asked again
        self._away = False

    def take(self, key: str, rules: Sequence[Rule], lease: str) -> tuple[Rule | None, list[State]]:
        values = [value for rule in rules for value in (rule.limit, rule.seconds * 1000, rule.cost)]
        with self._few:
            if not self._may_ask():
                return self._own.take(key, rules, lease)
            try:
                refused, *told = self._take(_places(key, rules), [lease, _LEASE_MS, *values])
            except (redis.RedisError, OSError) as error:
                self._lose(error)
                return self._own.take(key, rules, lease)
            self._regain()
        pairs = zip(told[::2], told[1::2], strict=True)
        states = [State(left, milliseconds / 1000) for left, milliseconds in pairs]
        if refused:
            return rules[refused - 1], states
        self._start()
        self._held[lease] = (key, sum(rule.cost for rule in rules if not rule.seconds))
        return None, states

    def settle(self, key: str, rules: Sequence[Rule], lease: str) -> None:
        if self._held.pop(lease, None) is None:
            self._own.settle(key, rules, lease)
        else:
            self._ended.put((key, rules, lease))

    # -- while Redis is away ------------------------------------------------------------------

    def _may_ask(self) -> bool:
        """Return whether to ask Redis; while it is away, one request in a while may."""
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

    def _regain(self) -> None:
        if self._away:
            self._away = False
            logger.info("the limits of keys are shared again")

    # -- the thread ---------------------------------------------------------------------------

    def _start(self) -> None:
        if self._process != os.getpid():
            with self._lock:
                if self._process != os.getpid():
                    self._process = os.getpid()
                    threading.Thread(target=self._run, name="limits", daemon=True).start()

    def _run(self) -> None:
        renew = time.monotonic() + _RENEW
        while True:
            try:
                if time.monotonic() >= renew:
                    renew = time.monotonic() + _RENEW
                    self._renew()
                key, rules, lease = self._ended.get(timeout=_RENEW)
                changes = [value for rule in rules for value in (rule.seconds * 1000, rule.cost)]
                self._settle(_places(key, rules), [lease, *changes])
            except queue.Empty:
                pass
            except (redis.RedisError, OSError) as error:
                self._lose(error)  # the minute, or the lease, ends by itself

    def _renew(self) -> None:
        members: dict[str, list[str]] = {}
        for lease, (key, count) in list(self._held.items()):
            members.setdefault(key, []).extend(f"{lease}:{n}" for n in range(1, count + 1))
        for key, leases in members.items():
            if leases:
                self._renewal([f"{_PREFIX}{key}:streams"], [_LEASE_MS, *leases])


def _places(key: str, rules: Sequence[Rule]) -> list[str]:
    return [f"{_PREFIX}{key}:{rule.name}" for rule in rules]
