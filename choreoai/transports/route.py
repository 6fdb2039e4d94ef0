"""How a server is reached: which host, through which proxy, trusted by which roots."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, NamedTuple, Union
from urllib.parse import urlsplit

import requests
from requests.utils import get_auth_from_url, select_proxy

from .base import unreachable

_PORTS = {"http": 80, "https": 443}


class Route(NamedTuple):
    """How a server is reached; requests with equal routes can share a connection."""

    scheme: str
    host: str
    authority: str  # host:port, an IPv6 address in brackets
    proxy: str | None
    verify: Union[bool, str]
    cert: Union[str, tuple[str, str], None]

    @property
    def origin(self) -> str:
        """``scheme://host:port``."""
        return f"{self.scheme}://{self.authority}"

    def message(self, request: requests.PreparedRequest) -> bytes:
        """Return *request* as it is sent on this route."""
        authority = urlsplit(request.url or "").netloc.rpartition("@")[2]
        target = request.path_url
        headers = {"Host": authority, **request.headers}
        if self.proxy is not None and self.scheme == "http":
            target = f"http://{authority}{target}"  # RFC 9112, section 3.2.2
            headers.update(proxy_authorization(self.proxy))
        lines = [f"{request.method} {target} HTTP/1.1", *map(": ".join, headers.items())]
        body = request.body or b""
        assert isinstance(body, bytes)
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def find_route(session: requests.Session, url: str) -> Route:
    """Return the route to *url* with the settings of *session* and of the environment.

    Raises APIConnectionError for a proxy that cannot be used and for files that are not there.
    """
    split = urlsplit(url)
    host = split.hostname or ""
    authority = f"[{host}]" if ":" in host else host
    authority += f":{split.port or _PORTS[split.scheme]}"
    verify: Any = session.verify  # else an environment's bundle would win over False
    settings = session.merge_environment_settings(url, {}, False, verify, None)
    cert = settings["cert"]
    cert = tuple(cert) if isinstance(cert, list) else cert
    verify = settings["verify"] is not False and (settings["verify"] or True)
    proxy = select_proxy(url, settings["proxies"])
    if proxy is not None and "://" not in proxy:
        proxy = f"http://{proxy}"
    route = Route(split.scheme, host, authority, proxy, verify, cert)
    for path in (verify, *(cert if isinstance(cert, tuple) else (cert,))):
        if isinstance(path, str) and not Path(path).exists():
            raise unreachable(route.origin, f"there is no file {path}", hopeless=True)
    if proxy is not None and not _usable(proxy):
        shown = proxy.rpartition("@")[2]  # without the password
        why = f"{shown!r} is not the address of an HTTP proxy (SOCKS is not supported)"
        raise unreachable(route.origin, why, hopeless=True)
    return route


def _usable(proxy: str) -> bool:
    try:
        split = urlsplit(proxy)
        return split.scheme in _PORTS and bool(split.hostname) and split.port != 0
    except ValueError:
        return False


def proxy_authorization(proxy: str | None) -> dict[str, str]:
    """Return the headers that tell *proxy* who asks."""
    pair = ":".join(get_auth_from_url(proxy or ""))
    encoded = base64.b64encode(pair.encode()).decode()
    return {} if pair == ":" else {"Proxy-Authorization": f"Basic {encoded}"}
