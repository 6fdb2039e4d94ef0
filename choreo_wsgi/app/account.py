"""The account of one request, and its consumers: the log, the metrics and the spans."""

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
from .keys import ANONYMOUS, Key

if TYPE_CHECKING:
    from .application import Application

logger = logging.getLogger(__name__)

#: Upper bounds, in seconds, of the histogram of gaps between blocks of frames.
GAPS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

#: For each setting that enables an observer: its class, and the package that it needs.
_OBSERVERS = {"metrics": ("Metrics", "prometheus_client"), "otel": ("Spans", "opentelemetry-sdk")}


@dataclass(slots=True)
class Account:
    """The facts of one request, from its head to its last byte; each is set once it is known.

    *target* is ``provider/model``.  *outcome* is ``ok``, ``completed``, an error's code or the
    reason for which a stream ended.  *first* is the ``time.monotonic()`` of the first frame.
    """

    id: str
    method: str
    path: str
    client: str
    observers: Sequence[Observer] = ()
    began: float = field(default_factory=time.monotonic)
    key: Key = ANONYMOUS
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
    #: Duration from the head to the end; None until the request is finished.
    seconds: float | None = None
    #: The number of gaps between blocks per bucket of GAPS, and a last one for longer gaps.
    gaps: list[int] = field(default_factory=list)
    #: Headers for the provider, which correlate its log with ours.
    trace: dict[str, str] = field(default_factory=dict)
    #: The OpenTelemetry span, if there is one.
    span: Any = None
    #: Headers to add to the answer, an error too.
    headers: list[tuple[str, str]] = field(default_factory=list)

    def requested(self, api: str, model: str, trace: dict[str, str]) -> None:
        """Set the requested *api* and *model*, and the *trace* headers for the provider."""
        self.api, self.model, self.trace = api, model, trace
        self._report("requested")

    def answered_by(self, target: str, failovers: int) -> None:
        """Set the *target* that answers, and the number of *failovers* before."""
        self.target, self.failovers = target, failovers

    def sent(self, frames: int, now: float) -> None:
        """Count *frames* that are sent to the client *now*, as ``time.monotonic()``."""
        if self.gaps:
            gap = now - self.last
            self.gaps[0 if gap <= GAPS[0] else bisect_left(GAPS, gap)] += 1
        elif self.first is None:
            self.first = now
            self.gaps = [0] * (len(GAPS) + 1) if self.observers else []
        self.last = now
        self.frames += frames

    def charge(self, usage: Usage | None) -> None:
        """Set the *usage* of the generation, which has ended."""
        self.usage = usage
        self._report("charged")

    def finish(self, outcome: str = "") -> None:
        """Report the finished request to the log and the observers; idempotent."""
        if self.seconds is not None:
            return
        self.seconds = time.monotonic() - self.began
        self.outcome = outcome or self.outcome or "ok"
        if log.access.isEnabledFor(logging.INFO):
            log.write_account(self.members())
        self._report("finished")

    def _report(self, hook: str) -> None:
        """Call *hook* of all observers; one that fails is logged, and fails no request."""
        for observer in self.observers:
            try:
                getattr(observer, hook)(self)
            except Exception:
                logger.exception("%s: accounting failed", self.id)

    def members(self) -> log.Members:
        """Return the members of the log line, in its order; None where one does not apply."""
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
    """Gets the accounts of all requests to *app*; the hooks do nothing unless overridden."""

    #: Routes that the observer adds to the application: handlers by path and method.
    routes: Mapping[str, dict[str, Callable[..., Any]]] = {}

    def __init__(self, app: Application) -> None:
        self.app = app

    def requested(self, account: Account) -> None:
        """Called when the API and the model are known; may change ``account.trace``."""

    def charged(self, account: Account) -> None:
        """Called when a generation has ended, even if its client has left."""

    def finished(self, account: Account) -> None:
        """Called once the request has finished."""


def load_observers(app: Application) -> list[Observer]:
    """Return the observers that the settings of *app* enable; no other is imported.

    Raises ConfigurationError when a package is missing.
    """
    observers: list[Observer] = []
    for name, (kind, package) in _OBSERVERS.items():
        if getattr(app.settings, name):
            try:
                module = importlib.import_module(f".{name}", __package__)
            except ImportError as error:
                text = f"{name}: needs the extra {name}: pip install {package}"
                raise ConfigurationError(text) from error
            observers.append(getattr(module, kind)(app))
    return observers
