"""Who is told of every request: the metrics, the spans, both or nobody."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ConfigurationError
from ..settings import Settings
from .account import Observer


def load(
    settings: Settings,
    gauges: Mapping[str, Callable[[], float]],
    breakers: Callable[[], Mapping[str, bool]],
) -> tuple[list[Observer], Any]:
    """Return the observers that *settings* ask for, and the metrics or None.

    The packages of both are extras, so nothing of them is imported before.  Raises
    ConfigurationError when one is missing.
    """
    found: list[Observer] = []
    metrics = None
    if settings.metrics:
        metrics = _module("metrics").Metrics(gauges, breakers, settings.metrics_key)
        found.append(metrics)
    if settings.otel:
        found.append(_module("otel").Spans())
    return found, metrics


_PACKAGES = {"metrics": "prometheus_client", "otel": "opentelemetry-sdk"}


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f".{name}", __package__)
    except ImportError as error:
        raise ConfigurationError(
            f"{name}: needs the extra {name}: pip install {_PACKAGES[name]}"
        ) from error
