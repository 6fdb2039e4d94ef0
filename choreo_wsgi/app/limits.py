"""The limits of API keys: admitted, refused, and settled when a completion is over.

Tokens are known at the end.  Until then a completion reserves its prompt (a token for four
characters) and its ``max_tokens``, or else what the key's answers took on average; then counts
what the provider reported, or a token for each frame when the answer was cut before that.

A minute, and a day, begins with its first request, so that a limit is exact within it.
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

#: What is used of each of a key's rules: by whom, and until when that counts.
Counts = dict[str, dict[str, tuple[int, float]]]
#: Adds the costs of rules without waiting, for the key that they were taken from.
Settle = Callable[[Sequence[Rule]], object]
#: Charges a key for an answer that is over: by its usage, else estimated from its frames.
#: Without either the provider gave nothing, and only the request counts.
Charge = Callable[[Usage | None, int], None]


def count(
    rules: Sequence[Rule], counts: Counts, now: float, holder: str = "", lease: float = math.inf
) -> list[Rule]:
    """Add the cost of each rule to a key's *counts*, or nothing if one has no room.

    Return the rules with what was left before.  *holder*, a process, has its places among the
    key's streams for *lease* seconds; a minute belongs to all.
    """
    counted, changed = list[Rule](), Counts()
    for rule in rules:
        latest = now + 2 * (rule.seconds or lease)  # what ends later began before a clock was set
        held = {id: one for id, one in counts.get(rule.name, {}).items() if now < one[1] <= latest}
        id, ends = ("", now + rule.seconds) if rule.seconds else (holder, now + lease)
        mine, began = held.get(id, (0, ends))
        changed[rule.name] = held | {
            id: (max(0, mine + rule.cost), began if rule.seconds else ends)
        }
        left = rule.limit - sum(n for n, _ in held.values())
        reset = began - now if rule.seconds else RETRY_AFTER
        counted.append(rule._replace(left=left, reset=reset))
    if refused(counted) is None:
        counts.update(changed)
    return counted


def refused(counted: Sequence[Rule]) -> Rule | None:
    """Return the first rule that had no room."""
    return next((rule for rule in counted if rule.cost > rule.left), None)


class Limits:
    """Admits completions within the limits of their keys, counted within this process.

    *blocking* is whether :meth:`admit` may wait.
    """

    blocking = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Counts] = {}
        self._answers: dict[str, float] = {}  # the mean of the tokens of a key's answers

    def close(self) -> None:
        """End what runs beside the requests."""

    def take(self, key: str, rules: Sequence[Rule]) -> tuple[list[Rule], Settle]:
        """Do what :func:`count` does for *key*; return also how to settle what was taken."""

        def add(rules: Sequence[Rule]) -> list[Rule]:
            with self._lock:
                return count(rules, self._counts.setdefault(key, {}), time.monotonic())

        return add(rules), add

    def admit(self, account: Account, request: ChatRequest, calls: int) -> Charge | None:
        """Take what *request* needs of its key's limits; return how to charge it at its end.

        *calls* is how many streams it counts as; None is returned if there are no limits.  The
        account gets the ``x-ratelimit-*`` headers.  Raises RateLimited.
        """
        key, limits = account.key.id, account.key.options.limits
        if not limits:
            return None
        prompt = 0
        if any(rule.name.startswith("tokens") for rule in limits):
            texts = (content_text(message.get("content")) for message in request.messages)
            prompt = sum(len(text) // 4 + 4 for text in texts)
            held = (one for one in request.marks.values() if isinstance(one, bytes | memoryview))
            prompt += sum(map(len, held)) // 4
        answer = round(self._answers.get(key, 0))
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
            """Replace what was taken, until its minute or day ends, by what was used."""
            tokens = prompt + frames if frames else 0
            if usage is not None:
                tokens = usage.prompt_tokens + usage.completion_tokens
                mean = self._answers.get(key, float(usage.completion_tokens))
                self._answers[key] = mean + (usage.completion_tokens - mean) / 8
            changes = []
            for rule in rules:
                change = tokens - rule.cost if rule.seconds else -rule.cost
                if rule.seconds and time.monotonic() - began >= rule.reset:
                    change = max(0, change)  # the next minute knows nothing of the reservation
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
        # The minute's tokens are told rather than the day's.
        if rule.seconds and f"x-ratelimit-limit-{name}" not in headers:
            left = rule.left - rule.cost if admitted else rule.left
            minutes, seconds = divmod(math.ceil(rule.reset), 60)
            hours, minutes = divmod(minutes, 60)  # written as OpenAI does: 6m0s, 23h59m1s
            reset = f"{hours}h" * bool(hours) + f"{minutes}m" * bool(hours or minutes)
            headers[f"x-ratelimit-limit-{name}"] = str(rule.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(max(0, left))
            headers[f"x-ratelimit-reset-{name}"] = f"{reset}{seconds}s"
    return list(headers.items())
