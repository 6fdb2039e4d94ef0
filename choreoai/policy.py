"""How long to wait and when to try again: values and pure decisions."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Union

from choreo_wsgi.upstream.head import retry_after

from .errors import APIConnectionError, APIStatusError


class Timeout(NamedTuple):
    """Limits in seconds; None means no limit.

    *connect*: name look-up aside, until the connection (with TLS) stands, for each address
    of the host.  *first_byte*: from the request until the answer begins; for a stream until
    its first chunk, because a server that pings while the model reads a long prompt has not
    answered yet.  *idle*: between two chunks of a stream, or two pieces of a plain answer; a
    server's pings do not count.
    """

    connect: float | None = 10.0
    first_byte: float | None = 600.0
    idle: float | None = 300.0


DEFAULT_TIMEOUT = Timeout()

TimeoutTypes = Union[Timeout, float, None]


@dataclass(frozen=True)
class Options:
    """What a single call asks for beside the API's own parameters."""

    timeout: Timeout
    max_retries: int
    resumable: bool
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, object] = field(default_factory=dict)


# 409 too: a server may answer it for a lock that is gone a moment later.
_RETRIED = frozenset((408, 409, 429))
_LONGEST_WAIT = 60.0
_LONGEST_TIMEOUT = 366 * 86400.0


def timeout_of(value: TimeoutTypes) -> Timeout:
    """Return *value* as a Timeout: a number is the limit for each of its parts.

    Raises ValueError for what is no time.
    """
    parts = value if isinstance(value, Timeout) else (value, value, value)
    for part in parts:
        if part is not None and not 0 < part <= _LONGEST_TIMEOUT:
            raise ValueError("a timeout is more than 0 seconds and at most a year, or None")
    return Timeout(*parts)


def backoff(attempt: int, first: float = 0.5, most: float = 8.0) -> float:
    """Return the seconds to wait after the failed *attempt* (0, 1, ...), with jitter.

    Doubles each time; the jitter takes up to a half off, so that clients which failed
    together do not come back together.
    """
    return float(min(most, first * 2.0**attempt)) * (1 - random.random() / 2)


def retry_delay(
    error: APIStatusError | APIConnectionError, attempt: int, now: float
) -> float | None:
    """Return the seconds to wait after *error* before another try, or None for no other.

    ``x-should-retry`` decides when it is there; otherwise 408, 409, 429 and 5xx are tried
    again.  ``retry-after-ms``, or ``Retry-After`` (seconds, with decimals or without, or a date,
    seen from *now*, the Unix time), gives the wait; over a minute it is not worth waiting for,
    and the caller is told at once.
    """
    if not isinstance(error, APIStatusError):
        return None if error._hopeless else backoff(attempt)
    status, headers = error.status_code, error.headers
    should = headers.get("x-should-retry", "").strip().lower()
    if should == "false":
        return None
    if should != "true" and status not in _RETRIED and status < 500:
        return None
    asked = retry_after(headers, now)
    if asked is None:
        return backoff(attempt)
    return asked if asked <= _LONGEST_WAIT else None
