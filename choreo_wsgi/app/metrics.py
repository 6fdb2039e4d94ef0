"""What ``/metrics`` tells Prometheus: sums over the accounts, and a look at the server.

With ``PROMETHEUS_MULTIPROC_DIR`` set, as prometheus_client has it, several processes answer
as one: each leaves its figures in that folder, and what changes without a request (the streams
that run) is looked at once a second.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from .access import demand_metrics_key
from .account import GAPS, Account, Observer
from .request import Call
from .response import Response

#: Model names beyond so many are told as ``other``: where a provider takes any name, they are
#: the callers' words.
MODELS = 200

#: How streams end whose client has gone.
_LEFT = ("client_closed", "client_left")

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

_GAUGES = {
    "active_streams": "Completions that run, with a client or without",
    "orphans": "Resumable streams that go on without a client",
    "readers": "Readings of resumable streams",
    "carried_streams": "Streams that wait on the server's one loop, without a worker",
    "loop_lag_seconds": "How long the loop's last round took, so how late it was for the others",
    "replay_reachable": "Whether the replay store can be reached",
}


#: How the figures of several processes become one; the others are added up.
_MODES: dict[str, Any] = {"loop_lag_seconds": "livemax", "replay_reachable": "livemin"}


class Metrics(Observer):
    """Counts finished requests; *gauges* and *breakers* are asked when the rest is told.

    *breakers* returns for each target whether its circuit is open.  *key* is the setting
    ``metrics_key``.
    """

    def __init__(
        self,
        gauges: Mapping[str, Callable[[], float]],
        breakers: Callable[[], Mapping[str, bool]],
        key: str,
    ) -> None:
        self._key = key
        self._gauges = gauges
        self._breakers = breakers
        self._models: set[str] = set()
        self._failing: set[str] = set()  # the targets whose circuits were open once
        self._registry = CollectorRegistry()
        self._shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self._watching = 0  # the process whose thread looks; a fork has none
        self._lock = threading.Lock()
        counter = partial(Counter, namespace="choreo", registry=self._registry)
        gauge = partial(Gauge, namespace="choreo", registry=self._registry)
        histogram = partial(Histogram, namespace="choreo", registry=self._registry)
        by = ("api", "model", "outcome")
        self._requests = counter("requests", "Requests by how they ended", by)
        by = ("key", "model", "direction")
        self._tokens = counter("tokens", "Tokens that providers reported", by)
        self._frames = counter("frames", "Frames sent to clients")
        self._pings = counter("heartbeats", "Pings sent to clients")
        self._left = counter("client_disconnects", "Clients that left before the end")
        self._failovers = counter("failovers", "Targets passed over for the next", ["model"])
        self._replay_errors = counter("replay_errors", "Requests that the replay store failed")
        text = "From a request to its last byte"
        self._seconds = histogram("request_seconds", text, buckets=_SECONDS)
        text = "From a request to the first frame"
        self._first = histogram("first_token_seconds", text, buckets=_SECONDS)
        self._gap = histogram("frame_gap_seconds", "Between frames of a stream", buckets=GAPS)
        self._looks = {
            name: gauge(name, text, multiprocess_mode=_MODES.get(name, "livesum"))
            for name, text in _GAUGES.items()
        }
        text = "Whether a target is left out for failing"
        self._open = gauge("breaker_open", text, ["target"], multiprocess_mode="livemax")

    def begun(self) -> None:
        """See to it that one of several processes looks once a second, in a thread of its own."""
        if not self._shared or self._watching == os.getpid():
            return
        with self._lock:
            if self._watching == os.getpid():
                return
            self._watching = os.getpid()

        def run() -> None:
            while True:
                self._look()
                time.sleep(1)

        threading.Thread(target=run, name="metrics", daemon=True).start()

    def finished(self, account: Account) -> None:
        """Count a request that is over."""
        model = self._model(account)
        self._requests.labels(account.api, model, account.outcome).inc()
        self._seconds.observe(account.seconds)
        if account.first is not None:
            self._first.observe(account.first - account.began)
            # Many at once, for which there is no public way: one by one they would cost a
            # stream a twelfth of its CPU time.
            self._gap._sum.inc(account.last - account.first)
            for bucket, count in zip(self._gap._buckets, account.gaps, strict=False):
                if count:
                    bucket.inc(count)
        self._frames.inc(account.frames)
        self._pings.inc(account.pings)
        if account.outcome in _LEFT:
            self._left.inc()
        if account.outcome == "replay_unavailable":
            self._replay_errors.inc()
        if account.failovers:
            self._failovers.labels(model).inc(account.failovers)

    def charged(self, account: Account) -> None:
        """Count the tokens of a generation that is over, its client there or not."""
        if account.usage is not None:
            tokens = self._tokens.labels
            who = (account.key.name, self._model(account))
            tokens(*who, "in").inc(account.usage.prompt_tokens)
            tokens(*who, "out").inc(account.usage.completion_tokens)

    def _model(self, account: Account) -> str:
        """Return the label for the account's model, empty if nobody was asked for it."""
        model = account.model if account.target else ""
        if len(self._models) < MODELS:
            self._models.add(model)
        return model if model in self._models else "other"

    # -- what is now --------------------------------------------------------------------------

    def _look(self) -> None:
        for name, look in list(self._gauges.items()):
            self._looks[name].set(look())
        for target, is_open in self._breakers().items():
            if is_open or target in self._failing:
                self._failing.add(target)
                self._open.labels(target).set(is_open)

    def response(self, call: Call) -> Response:
        """Return the answer to ``GET /metrics``; raises as :func:`demand_metrics_key` does."""
        demand_metrics_key(call.environ, self._key)
        self._look()
        registry = self._registry
        if self._shared:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        body = generate_latest(registry)
        headers = [("Content-Type", CONTENT_TYPE_LATEST), ("Content-Length", str(len(body)))]
        return Response(200, headers, [body])
