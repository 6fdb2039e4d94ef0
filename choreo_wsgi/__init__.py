"""A streaming LLM server in one plain WSGI callable.

``choreo_wsgi:app`` is the callable for the configuration of the environment,
:func:`create_app` makes one for a configuration of your own.  Both are resolved when they
are asked for, so that importing this package costs nothing.
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
    """This package's own class, so that ``choreo_wsgi.app`` is the callable at all times.

    The folder ``app/`` has the same name, and importing a sub-package makes it an attribute of
    its parent; a property is found before that attribute.
    """

    @property
    def app(self) -> Application:
        """The WSGI application for the configuration of the environment."""
        from .wsgi import app

        return app

    @app.setter
    def app(self, folder: ModuleType) -> None:
        """Ignore the import system, which would put the sub-package here."""

    def __getattr__(self, name: str) -> object:
        if name == "create_app":
            from .app.application import create_app

            return create_app
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


sys.modules[__name__].__class__ = _Package
