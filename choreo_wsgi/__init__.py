"""A streaming LLM server in one plain WSGI callable.

``choreo_wsgi:app`` is the callable for the configuration in the environment;
:func:`create_app` returns one for a configuration of your own.  Both are loaded at their first
use, so that importing this package costs nothing.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from .version import __version__

__all__ = ["__version__", "app", "create_app"]

if TYPE_CHECKING:
    from .app.application import Application, create_app

    app: Application


class _Package(ModuleType):
    """The class of this package, so that ``choreo_wsgi.app`` is always the callable.

    The sub-package ``app`` has the same name, and importing it sets an attribute of this package;
    a property takes precedence over that attribute.
    """

    @property
    def app(self) -> Application:
        """The WSGI application for the configuration in the environment."""
        from .wsgi import app

        return app

    @app.setter
    def app(self, folder: ModuleType) -> None:
        """Ignore the import system, which sets the sub-package here."""

    def __getattr__(self, name: str) -> object:
        if name == "create_app":
            from .app.application import create_app

            return create_app
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


sys.modules[__name__].__class__ = _Package
