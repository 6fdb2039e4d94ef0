"""Cross-origin calls from web pages (WHATWG Fetch, section 3.3 "CORS protocol")."""

from __future__ import annotations

from .request import Environ
from .settings import Settings

__all__ = ["Policy"]

Headers = list[tuple[str, str]]


class Policy:
    """Which web pages may call.

    With keys those of ``settings.cors_origins``, without keys those served by this machine.
    """

    def __init__(self, settings: Settings) -> None:
        raise NotImplementedError

    def headers(self, environ: Environ) -> Headers:
        """Return the headers for every answer to *environ*, errors included; never raises."""
        raise NotImplementedError

    def check(self, environ: Environ) -> None:
        """Raise OriginNotAllowed when a page of a foreign origin calls."""
        raise NotImplementedError

    def preflight(self, environ: Environ) -> Headers:
        """Return the headers of the answer (204) to an ``OPTIONS`` request.

        Raises OriginNotAllowed.
        """
        raise NotImplementedError
