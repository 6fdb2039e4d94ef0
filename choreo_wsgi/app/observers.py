"""Who is told of every request: the metrics, the spans, both or nobody."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from .account import Account
    from .application import Application


class Observer:
    """Told of all requests to *app*; a subclass takes what it wants to know."""

    #: The routes that it answers itself, with their methods.
    routes: Mapping[str, dict[str, Callable[..., Any]]] = {}

    def __init__(self, app: Application) -> None:
        self.app = app

    def asked(self, account: Account) -> None:
        """Note what a request asks for, and of whom; ``trace`` may be changed."""

    def finished(self, account: Account) -> None:
        """Count a request that is over."""

    def charged(self, account: Account) -> None:
        """Count the tokens of a generation that is over, its client there or not."""


def load(app: Application) -> list[Observer]:
    """Return the observers that the settings of *app* ask for; nothing of others is imported.

    Raises ConfigurationError when a package is missing.
    """
    found: list[Observer] = []
    for name, kind, package in (
        ("metrics", "Metrics", "prometheus_client"),
        ("otel", "Spans", "opentelemetry-sdk"),
    ):
        if getattr(app.settings, name):
            try:
                module = importlib.import_module(f".{name}", __package__)
            except ImportError as error:
                text = f"{name}: needs the extra {name}: pip install {package}"
                raise ConfigurationError(text) from error
            found.append(getattr(module, kind)(app))
    return found
