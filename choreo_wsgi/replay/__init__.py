"""Replay logs: the frames of resumable streams, kept so that a reconnect can read on.

:mod:`~choreo_wsgi.replay.base` says the rules.  ``memory:`` is the default;
``sqlite:PATH`` survives a restart and is shared by the processes of one host;
``redis://`` (and ``rediss://``, ``unix://``, ``valkey://``) is shared by any number of
replicas.
"""

from __future__ import annotations

import importlib

from ..errors import ConfigurationError
from ..settings import Settings
from .base import Claim, Fenced, Lost
from .reader import Reader
from .store import Store
from .writer import Writer

__all__ = ["Claim", "Fenced", "Lost", "Reader", "Store", "Writer", "open_store"]

_BACKENDS = {
    "memory": "memory",
    "sqlite": "sqlite",
    "redis": "redis",
    "rediss": "redis",
    "unix": "redis",
    "valkey": "redis",
    "valkeys": "redis",
}


def open_store(url: str, settings: Settings) -> Store:
    """Return the store that *url* (the setting ``replay``) names.

    Nothing is connected and no thread runs before the first use, so this may come before a
    fork.  Raises ConfigurationError for an unknown scheme, a missing path or package.
    """
    scheme, colon, _ = url.partition(":")
    backend = _BACKENDS.get(scheme)
    if backend is None or not colon:
        raise ConfigurationError(f"replay: {scheme!r} is not memory:, sqlite:PATH or redis://...")
    try:
        # Only the one in use: its package may be an extra that is not installed.
        module = importlib.import_module(f".{backend}", __name__)
    except ImportError as error:
        raise ConfigurationError(
            f"replay: {scheme}: needs the extra redis: pip install {error.name}"
        ) from error
    store: Store = module.open_store(url, settings)
    return store
