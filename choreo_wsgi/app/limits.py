"""The limits of API keys: a completion is admitted or refused, and settled at its end.

The number of tokens is known only at the end.  Until then a completion reserves its prompt (one
token per four characters) plus its ``max_tokens``, or without them the mean of the key's earlier
answers.  At the end the reservation is replaced by the usage that the provider reported, or by one
token per frame when the answer was cut before the report.

A minute, or a day, begins with its first request, so the limit is exact within it.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Sequence

from ..chat.items import Usage
from ..chat.request import ChatRequest, content_text
from ..errors import RateLimited
from .account import Account
from .keys import Rule
from .request import Headers
from .slots import RETRY_AFTER

#: The used amounts of one key: by rule name and holder, the amount and the time when it expires.
Counts = dict[str, dict[str, tuple[int, float]]]
#: Adds the costs of rules to the key that was charged before, without waiting for the result.
Settle = Callable[[Sequence[Rule]], object]
#: Charges a key for a finished answer: by its usage, or estimated from its number of frames.
#: Without either the provider sent nothing, and only the request counts.
Charge = Callable[[Usage | None, int], None]


def count(
    rules: Sequence[Rule], counts: Counts, now: float, holder: str = "", lease: float = math.inf
) -> list[Rule]:
    """Add the cost of each rule to a key's *counts*, or of none if one exceeds its limit.

    Return the rules with what remained before.  *holder*, a process, keeps its count of streams
    for *lease* seconds; the amounts of a minute or a day are common to all processes.
    """
    counted, changed = list[Rule](), Counts()
    for rule in rules:
        latest = now + 2 * (rule.seconds or lease)  # ignore later ends: the clock was set back
        used = {id: one for id, one in counts.get(rule.name, {}).items() if now < one[1] <= latest}
        id, ends = ("", now + rule.seconds) if rule.seconds else (holder, now + lease)
        amount, expires = used.get(id, (0, ends))
        changed[rule.name] = used | {
            id: (max(0, amount + rule.cost), expires if rule.seconds else ends)
        }
        remaining = rule.limit - sum(amount for amount, _ in used.values())
        reset = expires - now if rule.seconds else RETRY_AFTER
        counted.append(rule._replace(remaining=remaining, reset=reset))
    if refused(counted) is None:
        counts.update(changed)
    return counted


def refused(counted: Sequence[Rule]) -> Rule | None:
    """Return the first rule whose limit was exceeded."""
    return next((rule for rule in counted if rule.cost > rule.remaining), None)


class Limits:
    """Admits completions within the limits of their keys, counted in this process.

    *blocking* is whether :meth:`admit` may wait.
    """

    blocking = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Counts] = {}
        self._means: dict[str, float] = {}  # by key, the mean number of tokens of its answers

    def close(self) -> None:
        """Stop the background threads."""

    def take(self, key: str, rules: Sequence[Rule]) -> tuple[list[Rule], Settle]:
        """Count *rules* for *key* by :func:`count`; return its result and a function to settle."""

        def add(rules: Sequence[Rule]) -> list[Rule]:
            with self._lock:
                return count(rules, self._counts.setdefault(key, {}), time.monotonic())

        return add(rules), add

    def admit(self, account: Account, request: ChatRequest, calls: int) -> Charge | None:
        """Reserve the cost of *request*; return a function that charges it at its end.

        *calls* is the number of streams that it counts as.  Returns None for a key without limits.
        Adds the ``x-ratelimit-*`` headers to the account.  Raises RateLimited.
        """
        key, limits = account.key.id, account.key.options.limits
        if not limits:
            return None
        prompt = 0
        if any(rule.name.startswith("tokens") for rule in limits):
            texts = (content_text(message.get("content")) for message in request.messages)
            prompt = sum(len(text) // 4 + 4 for text in texts)
            aside = (one for one in request.marks.values() if isinstance(one, bytes | memoryview))
            prompt += sum(map(len, aside)) // 4  # long texts, of which the messages have marks
        answer = round(self._means.get(key, 0))
        if request.max_tokens is not None:
            answer = request.max_tokens * request.n
        costs = {"max_streams": calls, "requests_per_minute": 1}
        wanted = [
            rule._replace(cost=costs.get(rule.name, min(prompt + answer, rule.limit)))
            for rule in limits
        ]
        rules, settle = self.take(key, wanted)
        full = refused(rules)
        account.headers = _headers(rules, admitted=full is None)
        if full is not None:
            quota = full.name == "tokens_per_day"
            raise RateLimited(
                f"this key's limit is reached: {full.name} = {full.limit}",
                retry_after=full.reset,
                retry=False if quota else None,
                code="quota_exceeded" if quota else None,
            )
        began = time.monotonic()

        def charge(usage: Usage | None, frames: int) -> None:
            """Replace the reserved amounts, until their minute or day ends, by those used."""
            tokens = prompt + frames if frames else 0
            if usage is not None:
                tokens = usage.prompt_tokens + usage.completion_tokens
                mean = self._means.get(key, float(usage.completion_tokens))
                self._means[key] = mean + (usage.completion_tokens - mean) / 8
            changes = []
            for rule in rules:
                change = tokens - rule.cost if rule.seconds else -rule.cost
                if rule.seconds and time.monotonic() - began >= rule.reset:
                    change = max(0, change)  # the next minute does not contain the reservation
                if rule.name != "requests_per_minute":
                    changes.append(rule._replace(limit=sys.maxsize, cost=change))
            if changes:
                settle(changes)

        return charge


def _headers(rules: Sequence[Rule], *, admitted: bool) -> Headers:
    """Return OpenAI's headers (platform.openai.com/docs/guides/rate-limits)."""
    headers: dict[str, str] = {}
    for rule in rules:
        name = rule.name.partition("_")[0]
        # The headers have room for one limit of tokens: that of the minute comes first.
        if rule.seconds and f"x-ratelimit-limit-{name}" not in headers:
            remaining = rule.remaining - rule.cost if admitted else rule.remaining
            minutes, seconds = divmod(math.ceil(rule.reset), 60)
            hours, minutes = divmod(minutes, 60)  # written as OpenAI does: 6m0s, 23h59m1s
            reset = f"{hours}h" * bool(hours) + f"{minutes}m" * bool(hours or minutes)
            headers[f"x-ratelimit-limit-{name}"] = str(rule.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(max(0, remaining))
            headers[f"x-ratelimit-reset-{name}"] = f"{reset}{seconds}s"
    return list(headers.items())
