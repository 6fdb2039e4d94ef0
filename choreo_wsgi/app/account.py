"""The account of one request: everything the log and the metrics tell about it."""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..chat.items import Usage
from . import log
from .keys import ANYBODY, Key
from .observers import Observer

#: Upper bounds, in seconds, by which gaps between blocks of frames are counted.
GAPS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@dataclass(slots=True)
class Account:
    """One request, from its head to its last byte; each field is filled when it is known.

    *target* is ``provider/model``.  *outcome* is ``ok``, ``completed``, an error's code or how
    a stream ended.  *first* is the time of the first frame, as ``time.monotonic`` has it.
    """

    id: str
    method: str
    path: str
    client: str
    observers: Sequence[Observer] = ()
    began: float = field(default_factory=time.monotonic)
    key: Key = ANYBODY
    api: str = ""
    model: str = ""
    target: str = ""
    status: int = 0
    outcome: str = ""
    usage: Usage | None = None
    failovers: int = 0
    frames: int = 0
    pings: int = 0
    first: float | None = None
    last: float = 0.0
    #: From the head to the end, once it has come.
    seconds: float | None = None
    #: How many gaps between blocks were up to each of GAPS, and how many longer.
    gaps: list[int] = field(default_factory=list)
    #: Headers for the provider, by which its log and ours are joined.
    trace: dict[str, str] = field(default_factory=dict)
    #: An observer's own.
    span: Any = None
    #: More headers for the answer, whatever it is.
    headers: list[tuple[str, str]] = field(default_factory=list)

    def asked(self, api: str, model: str, trace: dict[str, str]) -> None:
        """Note what is asked for, and what the provider is to be told of the request."""
        self.api, self.model, self.trace = api, model, trace
        for observer in self.observers:
            observer.asked(self)

    # -- what an event stream tells ---------------------------------------------------------

    def sent(self, frames: int, now: float) -> None:
        """Count so many *frames*, which go to the client *now*."""
        if self.first is None:
            self.first = now
        elif self.observers:
            if not self.gaps:
                self.gaps = [0] * (len(GAPS) + 1)
            self.gaps[bisect_left(GAPS, now - self.last)] += 1
        self.last = now
        self.frames += frames

    def charge(self, usage: Usage | None) -> None:
        """Note what the generation took, when it is over."""
        self.usage = usage
        for observer in self.observers:
            observer.charged(self)

    # -- the end ----------------------------------------------------------------------------

    def finish(self, outcome: str = "") -> None:
        """Write the log line; only the first call does anything."""
        if self.seconds is not None:
            return
        self.seconds = time.monotonic() - self.began
        self.outcome = outcome or self.outcome or "ok"
        if log.access.isEnabledFor(logging.INFO):
            log.write_account(self.to_dict())
        for observer in self.observers:
            observer.finished(self)

    def to_dict(self) -> dict[str, str | int | float | None]:
        """Return what the log tells, in its order; None where a member does not apply."""
        usage = self.usage
        return {
            "id": self.id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "outcome": self.outcome,
            "key": self.key.name or None,
            "api": self.api or None,
            "model": self.model or None,
            "provider": self.target or None,
            "seconds": round(self.seconds or 0, 3),
            "first": None if self.first is None else round(self.first - self.began, 3),
            "tokens_in": usage.prompt_tokens if usage else None,
            "tokens_out": usage.completion_tokens if usage else None,
            "frames": self.frames or None,
            "client": self.client or None,
        }
