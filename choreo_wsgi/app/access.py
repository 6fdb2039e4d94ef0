"""Who may call: API keys, or without any, this machine alone."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable
from pathlib import Path

from ..errors import (
    AuthenticationError,
    ConfigurationError,
    PermissionDenied,
)
from ..settings import Settings
from .request import Environ

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
# RFC 6750, section 2.1, but a key may have any characters that are seen.
_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([^\x00-\x20\x7f]+)")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::[0-9]{0,5})?")

# How servers name the peer of a unix socket: gunicorn and uWSGI by nothing, waitress so.
_LOCAL_PEERS = frozenset(("127.0.0.1", "::1", "", "localhost"))
_LOCAL_HOSTS = frozenset(("localhost", "127.0.0.1", "[::1]"))

# Headers that a proxy adds.  With one of them the peer is not who asks.
_FORWARDING = (
    "HTTP_FORWARDED",
    "HTTP_X_FORWARDED",
    "HTTP_X_ORIGINAL_FOR",
    "HTTP_X_REAL_IP",
    "HTTP_X_CLIENT_IP",
    "HTTP_X_CLUSTER_CLIENT_IP",
    "HTTP_X_ENVOY_EXTERNAL_ADDRESS",
    "HTTP_VIA",
    "HTTP_CF_CONNECTING_IP",
    "HTTP_CDN_LOOP",
    "HTTP_TRUE_CLIENT_IP",
    "HTTP_FASTLY_CLIENT_IP",
    "HTTP_FLY_CLIENT_IP",
)


class Keys:
    """The API keys, known by their SHA-256 digests only."""

    def __init__(self, digests: Iterable[bytes]) -> None:
        self._digests = [(digest, digest.hex()[:16]) for digest in dict.fromkeys(digests)]

    @classmethod
    def from_settings(cls, settings: Settings) -> Keys:
        """Return the keys of ``api_keys`` and ``api_keys_file``.

        A line of the file begins with a digest in hex, as ``sha256sum`` prints it; the rest
        of the line, empty lines and lines from ``#`` are for people.  Raises
        ConfigurationError for a file that cannot be read or has no digest in it.
        """
        digests = [_digest(key.encode()) for key in settings.api_keys]
        if settings.api_keys_file:
            digests += _read_digests(settings.api_keys_file)
        return cls(digests)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def find(self, key: bytes) -> str | None:
        """Return the id of *key*: the first 16 characters of its digest, or None."""
        digest = _digest(key)
        found = None
        for known, name in self._digests:  # all of them: the time tells nothing
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def authenticate(self, environ: Environ) -> str:
        """Return the id of the key in the Authorization header of *environ*.

        Raises AuthenticationError, whose code says which of the three is wrong.
        """
        header = environ.get("HTTP_AUTHORIZATION") or ""
        if not header.strip():
            raise AuthenticationError(
                "an API key is needed: Authorization: Bearer KEY", code="missing_authorization"
            )
        match = _BEARER.fullmatch(header.strip(" \t"))
        if match is None:
            raise AuthenticationError(
                "the Authorization header must be: Bearer KEY", code="malformed_authorization"
            )
        # WSGI hands the header's bytes over as Latin-1 (PEP 3333).
        name = self.find(match[1].encode("latin-1", "replace"))
        if name is None:
            raise AuthenticationError("the API key is not known here")
        return name


class Gate:
    """Decides about callers; reads ``settings.api_keys_file`` when it is made.

    Raises ConfigurationError when that file cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._keys = Keys.from_settings(settings)
        self._open = settings.allow_anonymous

    @property
    def has_keys(self) -> bool:
        """Whether callers must present an API key."""
        return bool(self._keys)

    def admit(self, environ: Environ) -> str:
        """Return the id of the caller's key, safe to log; ``""`` without keys.

        Raises AuthenticationError (401), or PermissionDenied when there are no keys and the
        request may come from another machine.
        """
        if self._keys:
            return self._keys.authenticate(environ)
        if not self._open:
            _demand_local(environ)
        return ""


def is_local(peer: str) -> bool:
    """Return whether *peer*, a REMOTE_ADDR, is this machine: a loopback address or no address.

    An address is missing where the connection came over a unix socket.
    """
    if peer in _LOCAL_PEERS:
        return True
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    # A socket that listens on IPv6 and IPv4 names an IPv4 peer ::ffff:127.0.0.1.
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def is_loopback(host: str) -> bool:
    """Return whether *host*, a Host header, names this machine: localhost, 127.*.*.*, [::1].

    It is what a browser was told to open, so no name of a foreign page that resolves to this
    machine (DNS rebinding) passes.
    """
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match[1].lower()
    if name in _LOCAL_HOSTS:
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _demand_local(environ: Environ) -> None:
    if not is_local(environ.get("REMOTE_ADDR") or ""):
        raise PermissionDenied(
            "without API keys this server answers its own machine only", code="host_not_allowed"
        )
    if not is_loopback(environ.get("HTTP_HOST") or ""):
        raise PermissionDenied(
            "without API keys this server answers to localhost, 127.0.0.1 and [::1] only",
            code="host_not_allowed",
        )
    if any(name.startswith(_FORWARDING) for name in environ):
        raise PermissionDenied(
            "without API keys this server answers no forwarded requests", code="host_not_allowed"
        )


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _read_digests(path: str) -> list[bytes]:
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"api_keys_file: {path} cannot be read: {reason}") from None
    digests = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if not _DIGEST.fullmatch(words[0]):
            # The line may be a key by mistake, so it is not shown.
            raise ConfigurationError(
                f"api_keys_file: line {number} of {path} has no SHA-256 digest"
            )
        digests.append(bytes.fromhex(words[0]))
    if not digests:
        # Empty would mean a server without keys, open to all of this machine.
        raise ConfigurationError(f"api_keys_file: {path} has no digest in it")
    return digests


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
        """Raise PermissionDenied when a page of a foreign origin calls.

        A page that this host itself has served may always call: browsers name its origin
        too, in every request that is no GET.
        """
        origin = environ.get("HTTP_ORIGIN")
        if origin and not self._allows(origin) and not _same_host(origin, environ):
            raise PermissionDenied("pages of this origin may not call", code="origin_not_allowed")

    def preflight(self, environ: Environ) -> Headers:
        """Return what the answer (204) to an ``OPTIONS`` request has beside :meth:`headers`.

        Raises PermissionDenied.
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
