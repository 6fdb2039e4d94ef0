"""The limits of API keys: admitted, refused, and settled when a completion is over.

Tokens are known at the end only.  So a completion reserves what it will probably use: its
prompt (a token for four characters) and its ``max_tokens``, or else what the key's answers took
in the mean.  At the end the reservation is replaced by what the provider reported, or by a
token for each frame when the answer was cut before that.

A minute, and a day, begins with its first request, so that a limit is exact within it.
"""

from __future__ import annotations

import importlib
import math
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ..chat.items import Usage
from ..chat.request import ChatRequest, content_text
from ..errors import ChoreoError, RateLimited
from .account import Account
from .keys import Key

#: Seconds after which a caller whose streams are all in use may come back.
STREAM_RETRY = 1.0


@dataclass(frozen=True)
class Rule:
    """One limit of a key: at most *limit* in *seconds*, or at once when *seconds* is 0.

    *cost* is what the request adds to it.
    """

    name: str
    limit: int
    seconds: int
    cost: int


@dataclass(frozen=True)
class State:
    """What is left under a rule, and the seconds until all of it is there again."""

    left: int
    reset: float


class Counters(Protocol):
    """Where the limits are counted, by the id of a key and the name of a rule.

    *blocking* is whether :meth:`take` may wait.
    """

    blocking: bool

    def take(self, key: str, rules: Sequence[Rule], lease: str) -> tuple[Rule | None, list[State]]:
        """Add the cost of each rule, or nothing if one has no room.

        Returns the first rule without room or None, and the state of each rule before that.
        *lease* names the request until it gives back what it holds.
        """

    def settle(self, key: str, rules: Sequence[Rule], lease: str) -> None:
        """Add the costs of *rules*, which may be negative; give back what *lease* holds."""


class MemoryCounters:
    """Counts within this process."""

    blocking = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._used: dict[tuple[str, str], int] = {}
        self._ends: dict[tuple[str, str], float] = {}

    def take(self, key: str, rules: Sequence[Rule], lease: str) -> tuple[Rule | None, list[State]]:
        now = time.monotonic()
        refused = None
        states = []
        with self._lock:
            for rule in rules:
                place = (key, rule.name)
                ends = self._ends.get(place, now)
                if rule.seconds and ends <= now:
                    ends = now + rule.seconds
                    self._used.pop(place, None)
                left = rule.limit - self._used.get(place, 0)
                if refused is None and rule.cost > left:
                    refused = rule
                states.append(State(left, ends - now if rule.seconds else STREAM_RETRY))
            if refused is not None:
                return refused, states
            for rule, state in zip(rules, states, strict=True):
                place = (key, rule.name)
                self._used[place] = self._used.get(place, 0) + rule.cost
                self._ends[place] = now + state.reset
        return None, states

    def settle(self, key: str, rules: Sequence[Rule], lease: str) -> None:
        with self._lock:
            for rule in rules:
                place = (key, rule.name)
                self._used[place] = max(0, self._used.get(place, 0) + rule.cost)


def open_counters(replay: str) -> Counters:
    """Return the counters, shared by those who share what the setting *replay* names."""
    kind, _, path = replay.partition(":")
    if kind == "memory":
        return MemoryCounters()
    counters: Counters
    if kind == "sqlite":
        module = importlib.import_module(".sqlite_limits", __package__)
        counters = module.SQLiteCounters(Path(f"{path}-limits"))
    else:  # its package is an extra
        module = importlib.import_module(".redis_limits", __package__)
        counters = module.RedisCounters(replay)
    return counters


class Limits:
    """Admits completions within the limits of their keys."""

    def __init__(self, counters: Counters) -> None:
        self.counters = counters
        self._answers: dict[str, float] = {}  # the mean of the tokens of a key's answers

    def take(self, account: Account, request: ChatRequest, calls: int) -> Lease | None:
        """Return what *request* holds of its key's limits, None if it has none.

        *calls* is how many streams it counts as.  The account gets the ``x-ratelimit-*``
        headers.  Raises RateLimited.
        """
        key = account.key
        options = key.options
        if not options.limited:
            return None
        prompt = answer = 0
        if options.tokens_per_minute or options.tokens_per_day:
            texts = (content_text(message.get("content")) for message in request.messages)
            prompt = sum(len(text) // 4 + 4 for text in texts)
            prompt += sum(map(len, request.marks.values())) // 4
            answer = round(self._answers.get(key.id, 0))
            if request.max_tokens is not None:
                answer = request.max_tokens * request.n
        tokens = prompt + answer
        rules = [
            Rule("streams", options.max_streams, 0, calls),
            Rule("requests", options.requests_per_minute, 60, 1),
            Rule("tokens", options.tokens_per_minute, 60, min(tokens, options.tokens_per_minute)),
            Rule("day", options.tokens_per_day, 86400, min(tokens, options.tokens_per_day)),
        ]
        rules = [rule for rule in rules if rule.limit]
        lease = secrets.token_hex(8)
        refused, states = self.counters.take(key.id, rules, lease)
        if refused is None:
            states = [replace(s, left=s.left - r.cost) for r, s in zip(rules, states, strict=True)]
        account.headers = _headers(rules, states)
        if refused is not None:
            raise _refusal(refused, states[rules.index(refused)])
        ends = [time.monotonic() + state.reset for state in states]
        return Lease(self, key, list(zip(rules, ends, strict=True)), lease, prompt)

    def learn(self, key: Key, tokens: int) -> None:
        """Remember how long an answer was."""
        mean = self._answers.get(key.id, float(tokens))
        self._answers[key.id] = mean + (tokens - mean) / 8


@dataclass
class Lease:
    """What a running completion holds of its key's limits.

    *rules* are those of its key, each with the time at which its minute or day ends; *prompt*
    is the estimate of its tokens.
    """

    limits: Limits
    key: Key
    rules: list[tuple[Rule, float]]
    id: str
    prompt: int

    def settle(self, usage: Usage | None, frames: int) -> None:
        """Replace the reservation by *usage*, estimated from *frames* without it; idempotent.

        Without either the provider gave nothing, and only the request counts.
        """
        rules, self.rules = self.rules, []
        if not rules:
            return
        if usage is not None:
            tokens = usage.prompt_tokens + usage.completion_tokens
            self.limits.learn(self.key, usage.completion_tokens)
        else:
            tokens = self.prompt + frames if frames else 0
        now = time.monotonic()
        changes = []
        for rule, ends in rules:
            change = tokens - rule.cost if rule.seconds else -rule.cost
            if rule.seconds and now >= ends:
                change = max(0, change)  # the next minute knows nothing of the reservation
            if rule.name != "requests":
                changes.append(replace(rule, cost=change))
        self.limits.counters.settle(self.key.id, changes, self.id)


def _refusal(rule: Rule, state: State) -> ChoreoError:
    if rule.name == "streams":
        message = f"all {rule.limit} streams of this key are in use"
    elif rule.name == "day":
        message = f"this key's {rule.limit} tokens for 24 hours are used up"
        return RateLimited(message, retry_after=state.reset, retry=False, code="quota_exceeded")
    else:
        message = f"this key's limit of {rule.limit} {rule.name} in a minute is reached"
    return RateLimited(message, retry_after=state.reset)


def _headers(rules: Sequence[Rule], states: Sequence[State]) -> list[tuple[str, str]]:
    """Return OpenAI's headers (platform.openai.com/docs/guides/rate-limits)."""
    headers: dict[str, str] = {}
    for rule, state in zip(rules, states, strict=True):
        name = {"requests": "requests", "tokens": "tokens", "day": "tokens"}.get(rule.name)
        if name is None or f"x-ratelimit-limit-{name}" in headers:
            continue  # the minute's tokens are told rather than the day's
        headers[f"x-ratelimit-limit-{name}"] = str(rule.limit)
        headers[f"x-ratelimit-remaining-{name}"] = str(max(0, state.left))
        headers[f"x-ratelimit-reset-{name}"] = _duration(state.reset)
    return list(headers.items())


def _duration(seconds: float) -> str:
    """Return *seconds* as OpenAI writes them: ``6m0s``, ``23h59m1s``."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
