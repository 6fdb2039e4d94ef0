"""Cross-origin calls from web pages (WHATWG Fetch, section 3.3 "CORS protocol")."""

from __future__ import annotations

import re

from .errors import OriginNotAllowed
from .request import Environ
from .settings import Settings

__all__ = ["Policy"]

Headers = list[tuple[str, str]]

METHODS = "GET, POST, DELETE"

# What a page may read beside the safelisted headers; names, as Fetch knows no prefixes.
_EXPOSED = (
    "x-request-id, Retry-After, Content-Location, "
    "Choreo-Provider, Choreo-Resumable, Choreo-Stream-Id, x-should-retry"
)
_REQUEST_HEADERS = ("Authorization", "Content-Type", "Last-Event-ID", "Idempotency-Key")
# Choreo-* is ours; the others are sent by the OpenAI client when it runs in a browser.
_ASKED = re.compile(r"(?:choreo|openai|x-stainless)-[a-z0-9-]{1,64}|x-request-id")
_LOCAL = re.compile(r"https?://(?:localhost|127\.0\.0\.1)(?::[0-9]{1,5})?")
_MAX_AGE = "600"  # seconds; browsers cut it to 2 hours at most


class Policy:
    """Which web pages may call.

    With keys those of ``settings.cors_origins``, without keys those served by this machine.
    Never with credentials: no cookie means anything here.
    """

    def __init__(self, settings: Settings) -> None:
        keys = bool(settings.api_keys or settings.api_keys_file)
        origins = frozenset(origin.lower().rstrip("/") for origin in settings.cors_origins)
        self._origins = origins if keys else None
        self._every = keys and "*" in origins

    def headers(self, environ: Environ) -> Headers:
        """Return the headers for every answer to *environ*, errors included; never raises."""
        headers = [("Vary", "Origin")]
        origin = environ.get("HTTP_ORIGIN")
        if origin and self._allows(origin):
            headers.append(("Access-Control-Allow-Origin", "*" if self._every else origin))
            headers.append(("Access-Control-Expose-Headers", _EXPOSED))
        return headers

    def check(self, environ: Environ) -> None:
        """Raise OriginNotAllowed when a page of a foreign origin calls.

        A page that this host itself has served may always call: browsers name its origin
        too, in every request that is no GET.
        """
        origin = environ.get("HTTP_ORIGIN")
        if origin and not self._allows(origin) and not _same_host(origin, environ):
            raise OriginNotAllowed("pages of this origin may not call")

    def preflight(self, environ: Environ) -> Headers:
        """Return what the answer (204) to an ``OPTIONS`` request has beside :meth:`headers`.

        Raises OriginNotAllowed.
        """
        self.check(environ)
        asked = str(environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS") or "").lower()
        more = [name for part in asked.split(",")[:64] if _ASKED.fullmatch(name := part.strip())]
        return [
            ("Allow", f"{METHODS}, OPTIONS"),
            ("Access-Control-Allow-Methods", METHODS),
            ("Access-Control-Allow-Headers", ", ".join([*_REQUEST_HEADERS, *more])),
            ("Access-Control-Max-Age", _MAX_AGE),
        ]

    def _allows(self, origin: str) -> bool:
        if self._origins is None:
            return _LOCAL.fullmatch(origin) is not None
        return self._every or origin.lower() in self._origins


def _same_host(origin: str, environ: Environ) -> bool:
    scheme, _, host = origin.partition("://")
    own = environ.get("HTTP_HOST") or ""
    return scheme in ("http", "https") and bool(own) and host.lower() == own.lower()
