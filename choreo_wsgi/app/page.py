"""The page at ``/``: a chat in one HTML file, which shows when each frame arrives."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from .response import Response

_HTML = Path(__file__).with_name("page.html").read_bytes()


#: CSP sources that allow the page's own script and style, by their content.
_SCRIPT, _STYLE = (
    f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"
    for name in (b"script", b"style")
    for content in re.findall(rb"(?s)<%b>(.*?)</%b>" % (name, name), _HTML)
)
_HEADERS = [
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Length", str(len(_HTML))),
    ("Cache-Control", "no-store"),  # programs get something else at the same address
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    (
        "Content-Security-Policy",
        f"default-src 'none'; script-src {_SCRIPT}; style-src {_STYLE}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
    ),
]


def page() -> Response:
    """Return the page; it holds nothing secret and asks for the API key itself."""
    return Response(200, list(_HEADERS), [_HTML])
