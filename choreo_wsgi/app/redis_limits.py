"""The counters of limits in Redis, so that replicas share them.

A request is admitted by one script, so the limits are exact over all replicas.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import redis

from ..replay.redis import connect
from .limits import Rule, State
from .shared_limits import LEASE, SharedCounters

_PREFIX = "{choreo}:limit:"

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


class RedisCounters(SharedCounters):
    """Counts in the Redis at *url*; nothing is connected before the first use."""

    def __init__(self, url: str) -> None:
        super().__init__(redis.RedisError, OSError)
        client = connect(url)
        self._take: Any = client.register_script(_TAKE)
        self._settle: Any = client.register_script(_SETTLE)
        self._renewal: Any = client.register_script(_RENEWAL)
        # Fewer than the pool has connections: waiting for one is no sign that Redis is away.
        self._few = threading.BoundedSemaphore(8)

    def admit(self, key: str, rules: Sequence[Rule], lease: str) -> tuple[int, list[State]]:
        values = [value for rule in rules for value in (rule.limit, rule.seconds * 1000, rule.cost)]
        with self._few:
            refused, *told = self._take(_places(key, rules), [lease, int(LEASE * 1000), *values])
        pairs = zip(told[::2], told[1::2], strict=True)
        return refused, [State(left, milliseconds / 1000) for left, milliseconds in pairs]

    def give_back(self, key: str, rules: Sequence[Rule], lease: str) -> None:
        changes = [value for rule in rules for value in (rule.seconds * 1000, rule.cost)]
        self._settle(_places(key, rules), [lease, *changes])

    def renew(self, key: str, leases: Sequence[tuple[str, int]]) -> None:
        members = [f"{lease}:{n}" for lease, count in leases for n in range(1, count + 1)]
        self._renewal([f"{_PREFIX}{key}:streams"], [int(LEASE * 1000), *members])


def _places(key: str, rules: Sequence[Rule]) -> list[str]:
    return [f"{_PREFIX}{key}:{rule.name}" for rule in rules]
