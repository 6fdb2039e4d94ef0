"""Replay logs: the frames of resumable streams, kept so that a reconnect can read on.

:mod:`~choreo_wsgi.replay.backend` says the rules.  ``memory:`` is the default;
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

#: The backend of each scheme: its module, and its class there.
_BACKENDS = {
    "memory": ("memory", "MemoryBackend"),
    "sqlite": ("sqlite", "SQLiteBackend"),
    **dict.fromkeys(("redis", "rediss", "unix", "valkey", "valkeys"), ("redis", "RedisBackend")),
}


def open_store(url: str, settings: Settings, *, lease: float = LEASE, beat: float = BEAT) -> Store:
    """Return the store that *url* (the setting ``replay``) names; *lease* and *beat* in seconds.

    No connection stays open and no thread runs before the first use, so this may come before a
    fork.  Raises ConfigurationError for an unknown scheme, a missing package, and a file that
    cannot be used.
    """
    module, name = _module(url)
    return Store(getattr(module, name)(url, settings), settings, lease=lease, beat=beat)


def open_counts(url: str) -> Change:
    """Return what changes the counts that processes share in the database of *url*."""
    change: Change = _module(url)[0].open_counts(url)
    return change


def _module(url: str) -> tuple[Any, str]:
    """Return the module of the backend of *url*, and its class's name there."""
    scheme, colon, _ = url.partition(":")
    if scheme not in _BACKENDS or not colon:
        raise ConfigurationError(f"replay: {scheme!r} is not memory:, sqlite:PATH or redis://...")
    module_name, name = _BACKENDS[scheme]
    try:
        # Only the one in use: its package may be an extra that is not installed.
        return importlib.import_module(f".{module_name}", __name__), name
    except ImportError as error:
        raise ConfigurationError(
            f"replay: {scheme}: needs the extra redis: pip install {error.name}"
        ) from error
