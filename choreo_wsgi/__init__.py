"""A streaming LLM server in one plain WSGI callable.

``choreo_wsgi:app`` is the callable for the configuration of the environment,
:func:`create_app` makes one for a configuration of your own.  Both are resolved when they
are asked for, so that importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "app", "create_app"]

if TYPE_CHECKING:
    from .application import Application, create_app

    app: Application


def __getattr__(name: str) -> object:
    if name == "app":
        from .wsgi import app

        return app
    if name == "create_app":
        from .application import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
