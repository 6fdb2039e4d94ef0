"""Modules that are imported at their first use.

``Late("choreo_wsgi.chat.choices")`` stands for the module, and imports it when one of its names is
first used.  For the type checker the module itself is imported under the same name::

    if TYPE_CHECKING:
        from ..chat import choices
    else:
        choices = Late("choreo_wsgi.chat.choices")
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Late:
    """The module *name*, imported at its first use."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        value = self.__dict__[name] = getattr(import_module(self._name), name)
        return value  # found in __dict__ from now on
