"""Access control: API keys, or without any this machine alone; and CORS for web pages."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import lru_cache

from ..errors import AuthenticationError, ConfigurationError, PermissionDenied
from ..settings import Settings
from .keys import ANONYMOUS, Key, digest_of
from .request import Environ, Headers

# RFC 6750, section 2.1, but a key may have any visible characters.
_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([^\x00-\x20\x7f]+)")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::[0-9]{0,5})?")

# Headers that proxies and tunnels add, or the beginnings of their names: with one of them the
# peer is not the caller.  One search covers the names of a whole request, joined by spaces.
_FORWARDING = re.compile(
    " HTTP_(?:FORWARDED|VIA|CDN_LOOP|FRONT_END_HTTPS|CLIENT_IP|TRUE_CLIENT_IP|CF_|FLY_|FASTLY"
    "|AKAMAI|TAILSCALE|INCAP|PROXY_|X_(?:FORWARDED|REAL_IP|ORIGINAL|CLIENT_IP|CLUSTER_CLIENT_IP"
    "|REMOTE_ADDR|REMOTE_IP|PROXY|SCHEME|VARNISH|ENVOY|AMZN_TRACE|AMZ_CF|AZURE|FD_|ARR_"
    "|APPENGINE|CLOUD_TRACE))"
)

# Longest names, in characters, of which is cached what they mean.
_LONGEST = 2048

#: Paths answered without an API key and to pages of every origin: they reveal nothing about
#: other callers, or check the caller themselves.
OPEN = ("", "/", "/health", "/healthz", "/readyz", "/metrics")

# Web pages: CORS, https://fetch.spec.whatwg.org/#http-cors-protocol

METHODS = "GET, POST, DELETE"

# The response headers that a page may read.  They must be named: in Fetch "*" does not count for
# requests with an Authorization header.
_EXPOSED = (
    "x-request-id, request-id, Retry-After, Content-Location, "
    "Choreo-Provider, Choreo-Resumable, Choreo-Stream-Id, x-should-retry, "
    "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    "x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)
_REQUEST_HEADERS = ("Authorization", "Content-Type", "Last-Event-ID", "Idempotency-Key")
# Further request headers that a page may send: our own Choreo-*, and those that OpenAI's and
# Anthropic's clients send from a browser.
_CLIENT_HEADER = re.compile(
    r"(?:choreo|openai|anthropic|x-stainless)-[a-z0-9-]{1,64}|x-request-id|(?:x-)?api-key"
)
_LOCAL = re.compile(r"https?://(?:localhost|127\.0\.0\.1)(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s*]+/?", re.IGNORECASE)


class Gate:
    """Admits callers: holders of one of *keys* (by digest), or without keys this machine alone.

    Web pages: with keys those of ``cors_origins``, without keys those that this machine serves.
    Never with credentials: this server uses no cookies.
    """

    def __init__(self, keys: Mapping[str, Key], settings: Settings) -> None:
        """Raise ConfigurationError for a missing key or an invalid origin."""
        if settings.behind_proxy and not keys:
            raise ConfigurationError(
                "behind_proxy needs API keys, as every caller behind a proxy looks local: set "
                "api_keys, api_keys_file or a section [key NAME]"
            )
        for origin in settings.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigurationError(f"cors_origins: {origin!r} is not like https://HOST")
        self._keys = keys
        self._allow_anonymous = settings.allow_anonymous
        self._origins = frozenset(origin.lower().rstrip("/") for origin in settings.cors_origins)
        self._any_origin = bool(keys) and "*" in self._origins

    def admit(self, environ: Environ) -> Key:
        """Return the caller's key: ANONYMOUS without keys and for the paths of OPEN.

        Only the request's head is needed.  Raises AuthenticationError (401), or PermissionDenied
        when there are no keys and the request may come from another machine.
        """
        if environ.get("PATH_INFO") in OPEN:
            return ANONYMOUS
        if not self._keys:
            if not self._allow_anonymous:
                require_local(environ, "without API keys this server")
            return ANONYMOUS
        # Anthropic's clients send x-api-key, Azure's api-key.
        key = environ.get("HTTP_X_API_KEY") or environ.get("HTTP_API_KEY") or ""
        if (environ.get("HTTP_AUTHORIZATION") or "").strip():
            key = bearer(environ)
            if not key:
                raise AuthenticationError(
                    "the Authorization header must be: Bearer KEY", code="malformed_authorization"
                )
        if not key.strip():
            raise AuthenticationError(
                "an API key is needed: Authorization: Bearer KEY", code="missing_authorization"
            )
        # WSGI passes the header's bytes as Latin-1 (PEP 3333).  The lookup is by digest, so its
        # timing reveals nothing about the keys themselves.
        known = self._keys.get(digest_of(key.encode("latin-1", "replace")))
        if known is None:
            raise AuthenticationError("the API key is unknown")
        if known.options.expires <= datetime.now(timezone.utc):
            raise AuthenticationError(f"the API key has expired ({known.options.expires})")
        return known

    def cors_headers(self, environ: Environ) -> Headers:
        """Return the CORS headers of every answer to *environ*, errors included; never raises."""
        headers = [("Vary", "Origin")]
        origin = environ.get("HTTP_ORIGIN")
        if origin and self._allows(origin):
            headers.append(("Access-Control-Allow-Origin", "*" if self._any_origin else origin))
            headers.append(("Access-Control-Expose-Headers", _EXPOSED))
        return headers

    def check_origin(self, environ: Environ) -> None:
        """Raise PermissionDenied for a request from a page of a foreign origin.

        Pages that this host served are always allowed: browsers send an Origin with every request
        other than GET, also to the page's own host.
        """
        origin = environ.get("HTTP_ORIGIN")
        if not origin or self._allows(origin):
            return
        scheme, _, host = origin.partition("://")
        own = environ.get("HTTP_HOST") or ""
        if scheme not in ("http", "https") or not own or host.lower() != own.lower():
            raise PermissionDenied("this origin is not allowed", code="origin_not_allowed")

    def preflight(self, environ: Environ) -> Headers:
        """Return the headers of the answer to ``OPTIONS`` (204), besides :meth:`cors_headers`.

        Raises PermissionDenied.
        """
        self.check_origin(environ)
        requested = str(environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS") or "").lower()
        more = filter(_CLIENT_HEADER.fullmatch, map(str.strip, requested.split(",")))
        return [
            ("Allow", f"{METHODS}, OPTIONS"),
            ("Access-Control-Allow-Methods", METHODS),
            ("Access-Control-Allow-Headers", ", ".join([*_REQUEST_HEADERS, *more])),
            ("Access-Control-Max-Age", "600"),  # seconds; browsers cut it to 2 hours at most
        ]

    def _allows(self, origin: str) -> bool:
        if self._keys:
            return self._any_origin or origin.lower() in self._origins
        return _LOCAL.fullmatch(origin) is not None


def bearer(environ: Environ) -> str:
    """Return the key in the Authorization header, or ``""``."""
    match = _BEARER.fullmatch((environ.get("HTTP_AUTHORIZATION") or "").strip(" \t"))
    return match[1] if match else ""


def is_forwarded(environ: Environ) -> bool:
    """Return whether the request shows a proxy: an added header, or nginx's default request.

    That is HTTP/1.0 with ``Connection: close``.  A proxy that speaks HTTP/1.1, forwards the
    caller's Host and adds no header is indistinguishable from a program on this machine.
    """
    closes = environ.get("HTTP_CONNECTION", "").strip().lower() == "close"
    nginx = closes and environ.get("SERVER_PROTOCOL") == "HTTP/1.0"
    names = " ".join(environ)
    # Long names are not cached: they could fill 100 MB.
    has_header = _has_proxy_header if len(names) <= _LONGEST else _has_proxy_header.__wrapped__
    return has_header(names) or nginx


@lru_cache(256)
def _has_proxy_header(names: str) -> bool:
    return _FORWARDING.search(f" {names}") is not None


def require_local(environ: Environ, who: str) -> None:
    """Raise PermissionDenied unless the caller is this machine, by its own name, without a proxy.

    *who* is the subject of the message, such as "without API keys this server".
    """
    # A foreign name that resolves to this machine (DNS rebinding) is refused.
    host = _HOST.fullmatch(environ.get("HTTP_HOST") or "")
    peer = environ.get("REMOTE_ADDR") or "localhost"  # the peer of a unix socket has no address
    if not _is_loopback(peer):
        problem = "answers its own machine only"
    elif not (host and len(host[0]) <= _LONGEST and _is_loopback((host[1] or host[2]).lower())):
        problem = "answers to localhost, 127.0.0.1 and [::1] only"
    elif is_forwarded(environ):
        problem = "answers no forwarded requests"
    else:
        return
    raise PermissionDenied(f"{who} {problem}", code="host_not_allowed")


@lru_cache(256)
def _is_loopback(name: str) -> bool:
    """Return whether *name*, an address or a host, is localhost, 127.*.*.* or ::1."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost"
    # A socket that listens on IPv6 and IPv4 reports an IPv4 peer as ::ffff:127.0.0.1.
    return bool((getattr(address, "ipv4_mapped", None) or address).is_loopback)


def describe_arrival(environ: Environ, settings: Settings) -> str:
    """Return the facts that ``choreo-wsgi check`` reads: protocol, forwarded or not, heartbeat."""
    route = "forwarded" if is_forwarded(environ) else "direct"
    return f"{environ['SERVER_PROTOCOL']}; {route}; heartbeat={settings.heartbeat_seconds:g}"
