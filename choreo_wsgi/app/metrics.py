"""What ``/metrics`` tells Prometheus: sums over the accounts, and a look at the server.

With ``PROMETHEUS_MULTIPROC_DIR`` set, as prometheus_client has it, several processes answer
as one: each leaves its figures in that folder, and what changes without a request (the streams
that run) is looked at once a second.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import threading
import time
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import prometheus_client as prometheus
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

from ..errors import AuthenticationError
from .access import bearer, demand_local
from .account import GAPS, Account, Observer
from .request import Call
from .response import Response

if TYPE_CHECKING:
    from .application import Application

#: Names of models, and outcomes, beyond so many are told as ``other``: where a provider takes any
#: name they are the callers' words, and the codes of errors may be the provider's own.
WORDS = 200

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_Seconds, _Gaps = partial(Histogram, buckets=_SECONDS), partial(Histogram, buckets=GAPS)
# How several processes' gauges become one.
_Sum = partial(Gauge, multiprocess_mode="livesum")
_Max = partial(Gauge, multiprocess_mode="livemax")
_Min = partial(Gauge, multiprocess_mode="livemin")

#: Kind, text and labels.
_TABLE: dict[str, tuple[Any, str, str]] = {
    "requests": (Counter, "Requests by how they ended", "api model outcome"),
    "tokens": (Counter, "Tokens that providers reported", "key model direction"),
    "frames": (Counter, "Frames sent to clients", ""),
    "heartbeats": (Counter, "Pings sent to clients", ""),
    "client_disconnects": (Counter, "Clients that left before the end", ""),
    "failovers": (Counter, "Targets passed over for the next", "model"),
    "replay_errors": (Counter, "Requests that the replay store failed", ""),
    "request_seconds": (_Seconds, "From a request to its last byte", ""),
    "first_token_seconds": (_Seconds, "From a request to the first frame", ""),
    "frame_gap_seconds": (_Gaps, "Between frames of a stream", ""),
    "active_streams": (_Sum, "Completions that run, with a client or without", ""),
    "orphans": (_Sum, "Resumable streams that go on without a client", ""),
    "readers": (_Sum, "Readings of resumable streams", ""),
    "carried_streams": (_Sum, "Streams on the server's one loop, without a worker", ""),
    "loop_lag_seconds": (_Max, "How long the loop's last round made others wait", ""),
    "replay_reachable": (_Min, "Whether the replay store can be reached", ""),
    "breaker_open": (_Max, "Whether a target is left out for failing", "target"),
}


def _bounded(word: str, known: set[str]) -> str:
    if len(known) < WORDS:
        known.add(word)
    return word if word in known else "other"


class _Processes(MultiProcessCollector):
    """Collects what each process has left, but for one that begins or ends at this moment."""

    def collect(self) -> Any:
        files = []
        for file in Path(self._path).glob("*.db"):
            with contextlib.suppress(FileNotFoundError):
                files += [str(file)] * (file.stat().st_size > 0)
        return self.merge(files, accumulate=True)  # type: ignore[no-untyped-call]


class Metrics(Observer):
    """Counts finished requests; the gauges of *app* are asked when the rest is told."""

    def __init__(self, app: Application) -> None:
        super().__init__(app)
        self.routes = {"/metrics": {"GET": self._response}}
        self._models: set[str] = set()
        self._outcomes = {"ok", "completed", "client_closed", "client_left"}
        self._failing: set[str] = set()  # the targets whose circuits were open once
        self._shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self._watching = 0  # the process whose thread looks; a fork has none
        self._registry = prometheus.CollectorRegistry()
        self._metrics: dict[str, Any] = {
            name: kind(name, text, labels.split(), namespace="choreo", registry=self._registry)
            for name, (kind, text, labels) in _TABLE.items()
        }
        # labels() costs more than all that is counted.
        self._child = lru_cache(1024)(lambda name, *labels: self._metrics[name].labels(*labels))
        self._look()

    def asked(self, account: Account) -> None:
        """See to it that one of several processes looks once a second, in a thread of its own."""
        if self._shared and self._watching != os.getpid():
            self._watching = os.getpid()
            self._look()  # before the others are told of this process
            threading.Thread(target=self._watch, name="metrics", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(1)
            self._look()

    def finished(self, account: Account) -> None:
        """Count a request that is over."""
        self.asked(account)
        count, model = self._metrics, self._model(account)
        count["frames"].inc(account.frames)
        count["heartbeats"].inc(account.pings)
        if account.outcome in ("client_closed", "client_left"):
            count["client_disconnects"].inc()
        elif account.outcome == "replay_unavailable":
            count["replay_errors"].inc()
        if account.failovers:
            count["failovers"].labels(model).inc(account.failovers)
        count["request_seconds"].observe(account.seconds or 0)
        if account.first is not None:
            count["first_token_seconds"].observe(account.first - account.began)
            # Many at once, for which there is no public way: one by one they would cost a
            # stream a twelfth of its CPU time.
            gap = count["frame_gap_seconds"]
            gap._sum.inc(account.last - account.first)
            for bucket, number in zip(gap._buckets, account.gaps, strict=False):
                if number:
                    bucket.inc(number)
        # The last: who sees the request counted sees all of it.
        outcome = _bounded(account.outcome, self._outcomes)
        self._child("requests", account.api, model, outcome).inc()

    def charged(self, account: Account) -> None:
        """Count the tokens of a generation that is over."""
        if account.usage is not None:
            who = ("tokens", account.key.name, self._model(account))
            self._child(*who, "in").inc(account.usage.prompt_tokens)
            self._child(*who, "out").inc(account.usage.completion_tokens)

    def _model(self, account: Account) -> str:
        """Return the label for the account's model, empty if nobody was asked for it."""
        return _bounded(account.model if account.target else "", self._models)

    def _look(self) -> None:
        for name, look in list(self.app.gauges.items()):
            self._metrics[name].set(look())
        left_out = self.app.breakers.open_circuits()
        self._failing |= left_out
        for target in self._failing:
            self._metrics["breaker_open"].labels(target).set(target in left_out)

    def _response(self, call: Call) -> Response:
        """Return the answer to ``GET /metrics``.

        Raises AuthenticationError without the ``metrics_key``, which is a key of its own: who
        watches the server need not be able to use it; without one, PermissionDenied to other
        machines.
        """
        key = self.app.settings.metrics_key
        given = bearer(call.environ).encode("latin-1", "replace")
        if not key:
            demand_local(call.environ, "without a metrics_key /metrics")
        elif not hmac.compare_digest(given, key.encode()):
            raise AuthenticationError("/metrics needs the metrics_key: Authorization: Bearer KEY")
        self._look()
        registry = self._registry
        if self._shared:
            registry = prometheus.CollectorRegistry()
            _Processes(registry)  # type: ignore[no-untyped-call]
        body = prometheus.generate_latest(registry)
        kind = ("Content-Type", prometheus.CONTENT_TYPE_LATEST)
        return Response(200, [kind, ("Content-Length", str(len(body)))], [body])
