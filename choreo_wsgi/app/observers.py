"""Who is told of every request: the metrics, the spans, or nobody."""

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
) -> tuple[Observer | None, Any]:
    """Return the observer that *settings* ask for, and the metrics; None for what they do not.

    The packages of both are extras, so nothing of them is imported before.  Raises
    ConfigurationError when one is missing.
    """
    observer: Any = None
    metrics = None
    if settings.metrics:
        metrics = observer = _module("metrics").Metrics(gauges, breakers, settings.metrics_key)
    if settings.otel:
        observer = _module("otel").Spans(observer)
    return observer, metrics


_PACKAGES = {"metrics": "prometheus_client", "otel": "opentelemetry-sdk"}


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f".{name}", __package__)
    except ImportError as error:
        raise ConfigurationError(
            f"{name}: needs the extra {name}: pip install {_PACKAGES[name]}"
        ) from error
