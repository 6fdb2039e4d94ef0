"""Modules that are loaded when something in them is first needed.

``Late("choreo_wsgi.chat.choices")`` is used as the module is; nothing of it is loaded before one of
its names is asked for.  The same name is imported beside it for the type checker alone::

    if TYPE_CHECKING:
        from ..chat import choices
    else:
        choices = Late("choreo_wsgi.chat.choices")
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Late:
    """The module *name*, loaded at its first use."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        value = self.__dict__[name] = getattr(import_module(self._name), name)
        return value  # found without this the next time
