"""Replay logs: the stored frames of resumable streams, for clients that reconnect.

:mod:`~choreo_wsgi.replay.backend` describes the rules.  ``memory:`` is the default;
``sqlite:PATH`` survives a restart and is shared by the processes of one host;
``redis://`` (and ``rediss://``, ``unix://``, ``valkey://``) is shared by any number of
replicas.
"""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import ConfigurationError
from ..settings import Settings
from .backend import Change
from .reader import Reader
from .store import BEAT, LEASE, Claim, Lost, Store
from .writer import Fenced, Writer

__all__ = ["Claim", "Fenced", "Lost", "Reader", "Store", "Writer", "open_counts", "open_store"]

#: The module and the class of each scheme's backend.
_BACKENDS = {
    "memory": ("memory", "MemoryBackend"),
    "sqlite": ("sqlite", "SQLiteBackend"),
    **dict.fromkeys(("redis", "rediss", "unix", "valkey", "valkeys"), ("redis", "RedisBackend")),
}


def open_store(url: str, settings: Settings, *, lease: float = LEASE, beat: float = BEAT) -> Store:
    """Return the store at *url* (the setting ``replay``); *lease* and *beat* are in seconds.

    No connection stays open and no thread runs before the first use, so it may be called before a
    fork.  Raises ConfigurationError for an unknown scheme, a missing package, or a file that
    cannot be used.
    """
    module, name = _module(url)
    return Store(getattr(module, name)(url, settings), settings, lease=lease, beat=beat)


def open_counts(url: str) -> Change:
    """Return the function that changes the counts which processes share in the database *url*."""
    change: Change = _module(url)[0].open_counts(url)
    return change


def _module(url: str) -> tuple[Any, str]:
    """Return the backend's module for *url* and the name of its class."""
    scheme, colon, _ = url.partition(":")
    if not colon or scheme not in _BACKENDS:
        raise ConfigurationError(f"replay: {scheme!r} is not memory:, sqlite:PATH or redis://...")
    module_name, name = _BACKENDS[scheme]
    try:
        # Imported only if configured: its package may be an extra that is not installed.
        return importlib.import_module(f".{module_name}", __name__), name
    except ImportError as error:
        raise ConfigurationError(
            f"replay: {scheme}: needs the extra redis: pip install {error.name}"
        ) from error
