"""The application under a plain name, for servers that do not find a lazy one (uWSGI)."""

from __future__ import annotations

from .app.application import create_app

app = create_app()
