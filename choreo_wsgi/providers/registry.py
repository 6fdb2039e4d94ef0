"""Finds the class of a provider type, and imports it only then.

The types of this package stand in :mod:`~choreo_wsgi.providers.facts`.  Other packages add
theirs through the entry-point group ``choreo_wsgi.providers``; their code runs only when the
configuration names the type.
"""

from __future__ import annotations

import importlib
import inspect
from functools import cache
from importlib.metadata import entry_points

from ..errors import ConfigurationError
from .base import Provider
from .facts import BUILT_IN

GROUP = "choreo_wsgi.providers"


def installed() -> list[str]:
    """Return the types that a configuration may name, without importing any."""
    return sorted({*BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))})


@cache
def provider_class(type: str) -> type[Provider]:
    """Return the class for *type*.

    Raises ConfigurationError when there is none, or when its module cannot be imported,
    whatever that raises: it is somebody else's code.
    """
    try:
        if type in BUILT_IN:
            module, _, name = BUILT_IN[type].where.partition(":")
            found = getattr(importlib.import_module(module), name)
        else:
            entries = list(entry_points(group=GROUP, name=type))
            if not entries:
                raise ConfigurationError(
                    f"no provider of type {type!r}; installed: {', '.join(installed())}"
                )
            found = entries[0].load()
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"the provider type {type!r} cannot be loaded: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, Provider)):
        raise ConfigurationError(f"the entry point {type!r} is not a Provider")
    return found
