"""Providers of completions, found through the entry-point group ``choreo_wsgi.providers``.

The built-in ones come in by the same door as anybody else's: an entry point that names a
subclass of :class:`~choreo_wsgi.providers.base.Provider`.
"""

from __future__ import annotations

import inspect
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, entry_points

from ..errors import ConfigurationError
from .base import Provider

__all__ = ["Provider", "installed", "provider_class"]

GROUP = "choreo_wsgi.providers"


@lru_cache(maxsize=1)
def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def installed() -> list[str]:
    """Return the types of all installed providers, without importing them."""
    return sorted(_entries())


@cache
def provider_class(type: str) -> type[Provider]:
    """Return the class for *type*; raises ConfigurationError when there is none."""
    entry = _entries().get(type)
    if entry is None:
        raise ConfigurationError(
            f"no provider of type {type!r}; installed: {', '.join(installed())}"
        )
    try:
        found = entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"the provider type {type!r} cannot be loaded: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, Provider)):
        raise ConfigurationError(f"the entry point {type!r} is not a Provider")
    return found
