"""The parts of a URL (host, port, request target) and the proxy to reach it."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import ConfigurationError

_PORTS = {"http": 80, "https": 443}
_BASE, _PROXY = "a base URL", "the proxy's URL"
_TARGET = re.compile(r"[!-~]*")  # the characters of a request line: visible ASCII


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy; *authorization* is the value of Proxy-Authorization, or empty."""

    host: str
    port: int
    authorization: str = ""


@dataclass(frozen=True)
class Address:
    """The address to connect to; requests with equal addresses can share a connection."""

    scheme: str
    host: str
    port: int
    proxy: Proxy | None = None

    @property
    def authority(self) -> str:
        """``host:port``, an IPv6 address in brackets (RFC 3986 3.2)."""
        return f"{_bracketed(self.host)}:{self.port}"

    @property
    def host_header(self) -> str:
        """The value of Host: without the port where it is the scheme's own."""
        usual = self.port == _PORTS[self.scheme]
        return _bracketed(self.host) if usual else self.authority


def parse_url(url: str, environ: Mapping[str, str]) -> tuple[Address, str]:
    """Return the address and the request target of *url*.

    *environ* names the proxies.  Raises ConfigurationError for anything but http and https.
    """
    split = _split(url, _BASE)
    assert split.hostname
    host = split.hostname
    port = split.port or _PORTS[split.scheme]
    target = (split.path or "/") + (f"?{split.query}" if split.query else "")
    proxy = None if _direct(host, port, environ) else _proxy(split.scheme, environ)
    if not _TARGET.fullmatch(target + host):
        raise ConfigurationError(f"{_BASE} must be ASCII, other characters percent-encoded")
    address = Address(split.scheme, host, port, proxy)
    if proxy is not None and split.scheme == "http":
        target = f"http://{address.host_header}{target}"  # RFC 9112 3.2.2: the absolute form
    return address, target


def _split(url: str, subject: str) -> SplitResult:
    try:
        split = urlsplit(url)
        usable = split.scheme in _PORTS and bool(split.hostname) and split.port != 0
    except ValueError:
        usable = False
    if not usable:
        form = "http://HOST or https://HOST/PATH" if subject == _BASE else "http://HOST:PORT"
        raise ConfigurationError(f"{subject} must look like {form}")
    return split


def _proxy(scheme: str, environ: Mapping[str, str]) -> Proxy | None:
    for name in (f"{scheme}_proxy", f"{scheme}_PROXY".upper(), "all_proxy", "ALL_PROXY"):
        # In a CGI process HTTP_PROXY is the client's "Proxy" header ("httpoxy").
        if environ.get(name) and not (name == "HTTP_PROXY" and "REQUEST_METHOD" in environ):
            return _parse_proxy(environ[name])
    return None


def _parse_proxy(url: str) -> Proxy:
    split = _split(url if "://" in url else f"http://{url}", _PROXY)
    if split.scheme != "http":
        raise ConfigurationError(f"{_PROXY} must begin with http://")
    assert split.hostname
    authorization = ""
    if split.username is not None:
        pair = f"{unquote(split.username)}:{unquote(split.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    return Proxy(split.hostname, split.port or 80, authorization)


def _direct(host: str, port: int, environ: Mapping[str, str]) -> bool:
    """Return whether NO_PROXY has *host*: by name, parent domain, address, network or ``*``."""
    words = (environ.get("no_proxy") or environ.get("NO_PROXY") or "").replace(" ", "").split(",")
    for word in filter(None, words):
        name = word.lower().removesuffix(f":{port}").lstrip(".")
        if word == "*" or host == name or host.endswith(f".{name}") or _inside(host, name):
            return True
    return False


def _inside(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
