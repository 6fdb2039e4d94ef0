"""Finds and imports the class of a provider type.

The types of this package are listed in :mod:`~choreo_wsgi.providers.facts`.  Other packages add
types through the entry-point group ``choreo_wsgi.providers``; their code runs only if the
configuration names the type.
"""

from __future__ import annotations

import importlib
import inspect
from functools import cache
from typing import Any

from ..errors import ConfigurationError
from ..settings import did_you_mean
from .base import Provider
from .facts import BUILT_IN

GROUP = "choreo_wsgi.providers"


class Unusable(ConfigurationError):
    """A provider type is installed, but its code cannot be loaded."""


def installed() -> list[str]:
    """Return the types that a configuration may name, without importing them."""
    return sorted({*BUILT_IN, *(entry.name for entry in _entries())})


def _entries() -> Any:
    # Imported here: this takes longer than all other imports together.
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


@cache
def provider_class(type: str) -> type[Provider]:
    """Return the class for *type*.

    Raises ConfigurationError if there is none, and Unusable if importing it raises anything, as
    third-party code may, or finds no Provider.
    """
    built_in = BUILT_IN.get(type)
    entries = [] if built_in else [entry for entry in _entries() if entry.name == type]
    if not built_in and not entries:
        types = installed()
        near = did_you_mean(type, types)
        known = f"type, by default the section's name, is one of {', '.join(types)}"
        raise ConfigurationError(f"no provider of type {type!r}{near}; {known}")
    try:
        if built_in:
            module, _, name = built_in.where.partition(":")
            found = getattr(importlib.import_module(module), name)
        else:
            found = entries[0].load()
    except (Exception, SystemExit) as error:
        reason = f"{error.__class__.__name__}: {error}"
        if built_in and built_in.extra and isinstance(error, ModuleNotFoundError):
            package = str(error.name).partition(".")[0]
            reason = f"it needs the extra {built_in.extra}: pip install {package}"
        raise Unusable(f"the provider type {type!r} cannot be loaded: {reason}") from error
    if not (inspect.isclass(found) and issubclass(found, Provider)):
        raise Unusable(f"the entry point {type!r} is not a Provider")
    return found
