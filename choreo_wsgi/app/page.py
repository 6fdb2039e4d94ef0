"""The page at ``/``: a chat in one HTML file, which shows when each frame arrives."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from .response import Response

_HTML = Path(__file__).with_name("page.html").read_bytes()


def _hash_of(element: bytes) -> str:
    """Return the CSP source that allows the page's one *element*, by its content."""
    match = re.search(rb"<%b>(.*?)</%b>" % (element, element), _HTML, re.DOTALL)
    assert match is not None
    return f"'sha256-{base64.b64encode(hashlib.sha256(match[1]).digest()).decode()}'"


_HEADERS = [
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Length", str(len(_HTML))),
    ("Cache-Control", "no-store"),  # programs get something else at the same address
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    (
        "Content-Security-Policy",
        f"default-src 'none'; script-src {_hash_of(b'script')}; style-src {_hash_of(b'style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
    ),
]


def page() -> Response:
    """Return the page; it holds nothing secret and asks for the API key itself."""
    return Response(200, list(_HEADERS), [_HTML])
