"""The metrics for Prometheus at ``/metrics``: counts of requests, and gauges of the server.

With prometheus_client's ``PROMETHEUS_MULTIPROC_DIR`` several processes answer as one: each writes
its values to files in that folder.  The gauges, which change without a request (such as the number
of running streams), are then written once a second.
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
from .access import bearer, require_local
from .account import GAPS, Account, Observer
from .request import Call
from .response import Response

if TYPE_CHECKING:
    from .application import Application

#: The most distinct values of the labels ``model`` and ``outcome``; further ones become ``other``.
#: A caller may choose a model's name freely where the provider accepts any, and a provider the
#: codes of its errors.
WORDS = 200

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_Seconds, _Gaps = partial(Histogram, buckets=_SECONDS), partial(Histogram, buckets=GAPS)
# How the gauges of several processes are merged.
_Sum = partial(Gauge, multiprocess_mode="livesum")
_Max = partial(Gauge, multiprocess_mode="livemax")
_Min = partial(Gauge, multiprocess_mode="livemin")

#: The class, help text and labels of each metric.
_TABLE: dict[str, tuple[Any, str, str]] = {
    "requests": (Counter, "Requests by how they ended", "api model outcome"),
    "tokens": (Counter, "Tokens that providers reported", "key model direction"),
    "frames": (Counter, "Frames sent to clients", ""),
    "heartbeats": (Counter, "Pings sent to clients", ""),
    "client_disconnects": (Counter, "Clients that left before the end", ""),
    "failovers": (Counter, "Failed targets that were replaced by the next", "model"),
    "replay_errors": (Counter, "Requests that failed because of the replay store", ""),
    "request_seconds": (_Seconds, "Time from a request to its last byte", ""),
    "first_token_seconds": (_Seconds, "Time from a request to the first frame", ""),
    "frame_gap_seconds": (_Gaps, "Time between frames of a stream", ""),
    "active_streams": (_Sum, "Running completions, with or without a client", ""),
    "orphans": (_Sum, "Running resumable streams without a client", ""),
    "readers": (_Sum, "Connections that read the log of a resumable stream", ""),
    "carried_streams": (_Sum, "Streams on the server's one loop, without a worker", ""),
    "loop_lag_seconds": (_Max, "Duration of the loop's last round", ""),
    "replay_reachable": (_Min, "Whether the replay store is reachable", ""),
    "breaker_open": (_Max, "Whether a target is skipped because it keeps failing", "target"),
}


def _bounded(word: str, known: set[str]) -> str:
    if len(known) < WORDS:
        known.add(word)
    return word if word in known else "other"


class _Processes(MultiProcessCollector):
    """Collects the files of all processes, except of one that starts or exits at this moment."""

    def collect(self) -> Any:
        files = []
        for file in Path(self._path).glob("*.db"):
            with contextlib.suppress(FileNotFoundError):
                if file.stat().st_size:
                    files.append(str(file))
        return self.merge(files, accumulate=True)  # type: ignore[no-untyped-call]


class Metrics(Observer):
    """Counts finished requests; the gauges of *app* are read when ``/metrics`` is requested."""

    def __init__(self, app: Application) -> None:
        super().__init__(app)
        self.routes = {"/metrics": {"GET": self._response}}
        self._models: set[str] = set()
        self._outcomes = {"ok", "completed", "client_closed", "client_left"}
        self._failing: set[str] = set()  # targets whose circuit breakers were open once
        self._shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self._process = 0  # the process that runs the thread: not its forks
        self._registry = prometheus.CollectorRegistry()
        self._metrics: dict[str, Any] = {
            name: kind(name, text, labels.split(), namespace="choreo", registry=self._registry)
            for name, (kind, text, labels) in _TABLE.items()
        }
        # Cached: labels() costs more than the counting itself.
        self._child = lru_cache(1024)(lambda name, *labels: self._metrics[name].labels(*labels))
        self._read_gauges()

    def requested(self, account: Account) -> None:
        """Start the thread that writes the gauges once a second, in one of several processes."""
        if self._shared and self._process != os.getpid():
            self._process = os.getpid()
            self._read_gauges()  # now, as other processes collect them at any time
            threading.Thread(target=self._update_gauges, name="metrics", daemon=True).start()

    def _update_gauges(self) -> None:
        while True:
            time.sleep(1)
            self._read_gauges()

    def finished(self, account: Account) -> None:
        """Count a request that is over."""
        self.requested(account)
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
            # The public API can only observe gaps one by one, which would take a twelfth of a
            # stream's CPU time; this adds the counts of all gaps of the stream.
            gap = count["frame_gap_seconds"]
            gap._sum.inc(account.last - account.first)
            for bucket, number in zip(gap._buckets, account.gaps, strict=False):
                if number:
                    bucket.inc(number)
        # Last: when the request is counted, all its other values are visible too.
        outcome = _bounded(account.outcome, self._outcomes)
        self._child("requests", account.api, model, outcome).inc()

    def charged(self, account: Account) -> None:
        """Count the tokens of a generation that has ended."""
        if account.usage is not None:
            labels = ("tokens", account.key.name, self._model(account))
            self._child(*labels, "in").inc(account.usage.prompt_tokens)
            self._child(*labels, "out").inc(account.usage.completion_tokens)

    def _model(self, account: Account) -> str:
        """Return the label for the account's model, empty if no provider was called."""
        return _bounded(account.model if account.target else "", self._models)

    def _read_gauges(self) -> None:
        for name, read in list(self.app.gauges.items()):
            self._metrics[name].set(read())
        circuits = self.app.breakers.open_circuits()
        open_targets = {_bounded(target, self._failing) for target in circuits}
        self._failing |= open_targets
        for target in tuple(self._failing):  # another thread may add to it
            self._metrics["breaker_open"].labels(target).set(target in open_targets)

    def _response(self, call: Call) -> Response:
        """Return the answer to ``GET /metrics``.

        Raises AuthenticationError unless the request has the ``metrics_key``, which is separate
        from the API keys, as a monitor need not be able to use the server.  If none is set, raises
        PermissionDenied for requests from other machines.
        """
        key = self.app.settings.metrics_key
        sent = bearer(call.environ).encode("latin-1", "replace")
        if not key:
            require_local(call.environ, "without a metrics_key /metrics")
        elif not hmac.compare_digest(sent, key.encode()):
            raise AuthenticationError("/metrics needs the metrics_key: Authorization: Bearer KEY")
        self._read_gauges()
        registry = self._registry
        if self._shared:
            registry = prometheus.CollectorRegistry()
            _Processes(registry)  # type: ignore[no-untyped-call]
        body = prometheus.generate_latest(registry)
        content_type = ("Content-Type", prometheus.CONTENT_TYPE_LATEST)
        return Response(200, [content_type, ("Content-Length", str(len(body)))], [body])
