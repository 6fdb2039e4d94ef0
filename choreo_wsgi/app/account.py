"""The account of one request, and who is told of it: the log, the metrics, the spans."""

from __future__ import annotations

import importlib
import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..chat.items import Usage
from ..errors import ConfigurationError
from . import log
from .keys import ANYBODY, Key

if TYPE_CHECKING:
    from .application import Application

#: Upper bounds, in seconds, by which gaps between blocks of frames are counted.
GAPS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

#: The settings that ask for an observer, its class, and the package that it needs.
_OBSERVERS = {"metrics": ("Metrics", "prometheus_client"), "otel": ("Spans", "opentelemetry-sdk")}


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

    def sent(self, frames: int, now: float) -> None:
        """Count so many *frames*, which go to the client *now*."""
        if self.gaps:
            gap = now - self.last
            self.gaps[0 if gap <= GAPS[0] else bisect_left(GAPS, gap)] += 1
        elif self.first is None:
            self.first = now
            self.gaps = [0] * (len(GAPS) + 1) if self.observers else []
        self.last = now
        self.frames += frames

    def charge(self, usage: Usage | None) -> None:
        """Note what the generation took, when it is over."""
        self.usage = usage
        for observer in self.observers:
            observer.charged(self)

    def finish(self, outcome: str = "") -> None:
        """Tell everybody of the request, which is over; only the first call does anything."""
        if self.seconds is not None:
            return
        self.seconds = time.monotonic() - self.began
        self.outcome = outcome or self.outcome or "ok"
        if log.access.isEnabledFor(logging.INFO):
            log.write_account(self.members())
        for observer in self.observers:
            observer.finished(self)

    def members(self) -> log.Members:
        """Return what the log tells, in its order; None where a member does not apply."""
        usage = self.usage
        return log.Members(
            id=self.id,
            method=self.method,
            path=self.path,
            status=self.status,
            outcome=self.outcome,
            key=self.key.name or None,
            api=self.api or None,
            model=self.model or None,
            provider=self.target or None,
            seconds=round(self.seconds or 0, 3),
            first=None if self.first is None else round(self.first - self.began, 3),
            tokens_in=usage.prompt_tokens if usage else None,
            tokens_out=usage.completion_tokens if usage else None,
            frames=self.frames or None,
            client=self.client or None,
        )


class Observer:
    """Told of all requests to *app*; a subclass takes what it wants to know."""

    #: The routes that it answers itself, with their methods.
    routes: Mapping[str, dict[str, Callable[..., Any]]] = {}

    def __init__(self, app: Application) -> None:
        self.app = app

    def asked(self, account: Account) -> None:
        """Note what a request asks for, and of whom; ``trace`` may be changed."""

    def charged(self, account: Account) -> None:
        """Count the tokens of a generation that is over, its client there or not."""

    def finished(self, account: Account) -> None:
        """Count a request that is over."""


def load_observers(app: Application) -> list[Observer]:
    """Return the observers that the settings of *app* ask for; nothing of others is imported.

    Raises ConfigurationError when a package is missing.
    """
    found: list[Observer] = []
    for name, (kind, package) in _OBSERVERS.items():
        if getattr(app.settings, name):
            try:
                module = importlib.import_module(f".{name}", __package__)
            except ImportError as error:
                text = f"{name}: needs the extra {name}: pip install {package}"
                raise ConfigurationError(text) from error
            found.append(getattr(module, kind)(app))
    return found
