"""The application as a plain module attribute, for servers that need one (uWSGI)."""

from __future__ import annotations

from .app.application import create_app

app = create_app()
