"""Who may call: API keys, or without any, this machine alone; and which web pages."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import lru_cache

from ..errors import AuthenticationError, ConfigurationError, PermissionDenied
from ..settings import Settings
from .keys import ANYBODY, Key, digest_of
from .request import Environ, Headers

# RFC 6750, section 2.1, but a key may have any visible characters.
_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([^\x00-\x20\x7f]+)")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::[0-9]{0,5})?")

# Headers that proxies and tunnels add, or their beginnings: with one of them the peer is not
# the caller.  Looked for in all names at once.
_FORWARDING = re.compile(
    " HTTP_(?:FORWARDED|VIA|CDN_LOOP|FRONT_END_HTTPS|CLIENT_IP|TRUE_CLIENT_IP|CF_|FLY_|FASTLY"
    "|AKAMAI|TAILSCALE|INCAP|PROXY_|X_(?:FORWARDED|REAL_IP|ORIGINAL|CLIENT_IP|CLUSTER_CLIENT_IP"
    "|REMOTE_ADDR|REMOTE_IP|PROXY|SCHEME|VARNISH|ENVOY|AMZN_TRACE|AMZ_CF|AZURE|FD_|ARR_"
    "|APPENGINE|CLOUD_TRACE))"
)

#: Answered without an API key and to every page: they tell nothing about anybody, or look at
#: who asks themselves.
OPEN = ("", "/", "/health", "/healthz", "/readyz", "/metrics")

# Web pages: CORS, https://fetch.spec.whatwg.org/#http-cors-protocol

METHODS = "GET, POST, DELETE"

# The response headers that a page may read; with an Authorization header Fetch knows no "*".
_EXPOSED = (
    "x-request-id, Retry-After, Content-Location, "
    "Choreo-Provider, Choreo-Resumable, Choreo-Stream-Id, x-should-retry, "
    "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    "x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)
_REQUEST_HEADERS = ("Authorization", "Content-Type", "Last-Event-ID", "Idempotency-Key")
# Choreo-* is ours; the others are sent by OpenAI's and Anthropic's clients in a browser.
_ASKED = re.compile(
    r"(?:choreo|openai|anthropic|x-stainless)-[a-z0-9-]{1,64}|x-request-id|(?:x-)?api-key"
)
_LOCAL = re.compile(r"https?://(?:localhost|127\.0\.0\.1)(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s*]+/?", re.IGNORECASE)


class Gate:
    """Decides who may call: the holders of *keys*, by digest, or without keys this machine.

    And which web pages: with keys those of ``cors_origins``, without keys those that this machine
    serves.  Never with credentials: this server uses no cookies.
    """

    def __init__(self, keys: Mapping[str, Key], settings: Settings) -> None:
        """Raise ConfigurationError if there must be keys and are none, or for no origin."""
        if settings.behind_proxy and not keys:
            raise ConfigurationError(
                "behind_proxy: strangers look local behind a proxy; set api_keys, api_keys_file "
                "or a section [key NAME]"
            )
        for origin in settings.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigurationError(f"cors_origins: {origin!r} is not like https://HOST")
        self._keys = keys
        self._open = settings.allow_anonymous
        self._origins = frozenset(origin.lower().rstrip("/") for origin in settings.cors_origins)
        self._every = bool(keys) and "*" in self._origins

    def admit(self, environ: Environ) -> Key:
        """Return the caller's key, ANYBODY without keys and for what anybody may ask.

        The request's head is enough.  Raises AuthenticationError (401), or PermissionDenied
        when there are no keys and the request may come from another machine.
        """
        if environ.get("PATH_INFO") in OPEN:
            return ANYBODY
        if not self._keys:
            if not self._open:
                demand_local(environ, "without API keys this server")
            return ANYBODY
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
        # WSGI hands the header's bytes over as Latin-1 (PEP 3333).  A lookup by digest: its timing
        # tells nothing about the keys themselves.
        known = self._keys.get(digest_of(key.encode("latin-1", "replace")))
        if known is None:
            raise AuthenticationError("the API key is not known here")
        if known.options.expires <= datetime.now(timezone.utc):
            raise AuthenticationError(f"the API key has expired ({known.options.expires})")
        return known

    def cors_headers(self, environ: Environ) -> Headers:
        """Return the headers for every answer to *environ*, errors included; never raises."""
        headers = [("Vary", "Origin")]
        origin = environ.get("HTTP_ORIGIN")
        if origin and self._allows(origin):
            headers.append(("Access-Control-Allow-Origin", "*" if self._every else origin))
            headers.append(("Access-Control-Expose-Headers", _EXPOSED))
        return headers

    def check_origin(self, environ: Environ) -> None:
        """Raise PermissionDenied when a page of a foreign origin calls.

        A page that this host has served may always call: browsers send an Origin with every
        request other than GET, also to the page's own host.
        """
        origin = environ.get("HTTP_ORIGIN")
        if not origin or self._allows(origin):
            return
        scheme, _, host = origin.partition("://")
        own = environ.get("HTTP_HOST") or ""
        if scheme not in ("http", "https") or not own or host.lower() != own.lower():
            raise PermissionDenied("pages of this origin may not call", code="origin_not_allowed")

    def preflight(self, environ: Environ) -> Headers:
        """Return the headers that the answer to ``OPTIONS`` (204) adds to :meth:`cors_headers`.

        Raises PermissionDenied.
        """
        self.check_origin(environ)
        asked = str(environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS") or "").lower()
        more = [name for part in asked.split(",")[:64] if _ASKED.fullmatch(name := part.strip())]
        return [
            ("Allow", f"{METHODS}, OPTIONS"),
            ("Access-Control-Allow-Methods", METHODS),
            ("Access-Control-Allow-Headers", ", ".join([*_REQUEST_HEADERS, *more])),
            ("Access-Control-Max-Age", "600"),  # seconds; browsers cut it to 2 hours at most
        ]

    def _allows(self, origin: str) -> bool:
        if self._keys:
            return self._every or origin.lower() in self._origins
        return _LOCAL.fullmatch(origin) is not None


def bearer(environ: Environ) -> str:
    """Return the key in the Authorization header, or nothing."""
    match = _BEARER.fullmatch((environ.get("HTTP_AUTHORIZATION") or "").strip(" \t"))
    return match[1] if match else ""


def is_forwarded(environ: Environ) -> bool:
    """Return whether a proxy shows: by a header that it adds, or as nginx asks by default.

    That is in HTTP/1.0, with ``Connection: close``.  A proxy that speaks HTTP/1.1, passes the
    caller's Host on and adds nothing cannot be told from a program on this machine.
    """
    closes = environ.get("HTTP_CONNECTION", "").strip().lower() == "close"
    return _adds(tuple(environ)) or (closes and environ.get("SERVER_PROTOCOL") == "HTTP/1.0")


@lru_cache(256)
def _adds(names: tuple[str, ...]) -> bool:
    return _FORWARDING.search(f" {' '.join(names)}") is not None


def demand_local(environ: Environ, who: str) -> None:
    """Raise PermissionDenied unless this machine itself calls, by its own name, without a proxy.

    *who* does not answer others, for the message.
    """
    # A foreign name that resolves to this machine (DNS rebinding) does not pass.
    host = _HOST.fullmatch(environ.get("HTTP_HOST") or "")
    peer = environ.get("REMOTE_ADDR") or "localhost"  # a unix socket's has no address
    if not _is_loopback(peer.partition("%")[0]):
        problem = "answers its own machine only"
    elif not (host and _is_loopback((host[1] or host[2]).lower())):
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
    # A socket that listens on IPv6 and IPv4 names an IPv4 peer ::ffff:127.0.0.1.
    return bool((getattr(address, "ipv4_mapped", None) or address).is_loopback)


def how_it_came(environ: Environ, settings: Settings) -> str:
    """Return what ``choreo-wsgi check`` asks for: the protocol, forwarded or not, and pings."""
    way = "forwarded" if is_forwarded(environ) else "direct"
    return f"{environ['SERVER_PROTOCOL']}; {way}; heartbeat={settings.heartbeat_seconds:g}"
