"""The HTTP request of a WSGI environ: its body, within limits, and its id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .settings import Settings

__all__ = ["Environ", "read_body", "request_id"]

Environ = Mapping[str, Any]


def read_body(environ: Environ, settings: Settings) -> bytes:
    """Return the whole body of a JSON request, at most ``settings.max_body_bytes`` long.

    Raises UnsupportedMediaType, LengthRequired, BodyTooLarge, and InvalidRequest for a
    length that is no number or a body shorter than it.
    """
    raise NotImplementedError


def request_id(environ: Environ) -> str:
    """Return the caller's ``x-request-id`` if it can be sent back as it is, else a new one."""
    raise NotImplementedError
