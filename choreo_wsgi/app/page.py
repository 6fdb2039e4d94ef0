"""The page at ``/``: a chat in one HTML file, which shows when each frame arrives."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from .response import Response

_HTML = Path(__file__).with_name("page.html").read_bytes()

#: CSP sources that allow the page's own script and style, by the hash of their content.
_OWN = {
    name: f"'sha256-{b64encode(sha256(content).digest()).decode()}'"
    for name, content in re.findall(rb"(?s)<(script|style)>(.*?)</\1>", _HTML)
}
_HEADERS = [
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Length", str(len(_HTML))),
    ("Cache-Control", "no-store"),  # other clients get JSON at the same address
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    (
        "Content-Security-Policy",
        f"default-src 'none'; script-src {_OWN[b'script']}; style-src {_OWN[b'style']}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
    ),
]


def page() -> Response:
    """Return the page; it contains no secret and has the user enter the API key."""
    return Response(200, list(_HEADERS), [_HTML])
