"""How a server is reached: which host, through which proxy, trusted by which roots."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, NamedTuple, Union
from urllib.parse import SplitResult, unquote, urlsplit

import requests
from requests.utils import select_proxy

from .base import Unreachable

_PORTS = {"http": 80, "https": 443}


class Route(NamedTuple):
    """How a server is reached; requests with equal routes can share a connection."""

    scheme: str
    host: str
    port: int
    proxy: str | None
    verify: Union[bool, str]
    cert: Union[str, tuple[str, str], None]

    @property
    def authority(self) -> str:
        """``host:port``, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def find_route(session: requests.Session, url: SplitResult) -> Route:
    """Return the route to *url* with the settings of *session* and of the environment.

    Raises Unreachable for a proxy that cannot be used and for files that are not there.
    """
    verify: Any = session.verify  # else an environment's bundle would win over False
    settings = session.merge_environment_settings(url.geturl(), {}, False, verify, None)
    proxy = select_proxy(url.geturl(), settings["proxies"])
    if proxy is not None:
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        try:
            split = urlsplit(proxy)
            usable = bool(split.hostname) and split.port != 0
        except ValueError:
            usable = False
        if not usable:
            shown = proxy.rpartition("@")[2]  # without the password
            raise Unreachable(f"{shown!r} is not the address of a proxy", hopeless=True)
        if split.scheme not in _PORTS:
            raise Unreachable(f"{split.scheme.upper()} proxies are not supported", hopeless=True)
    cert = settings["cert"]
    cert = tuple(cert) if isinstance(cert, list) else cert
    verify = settings["verify"] is not False and (settings["verify"] or True)
    for path in (verify, *(cert if isinstance(cert, tuple) else (cert,))):
        if isinstance(path, str) and not Path(path).exists():
            raise Unreachable(f"there is no file {path}", hopeless=True)
    port = url.port or _PORTS[url.scheme]
    return Route(url.scheme, url.hostname or "", port, proxy, verify, cert)


def proxy_authorization(proxy: str | None) -> dict[str, str]:
    """Return the headers that tell *proxy* who asks."""
    split = urlsplit(proxy or "")
    if split.username is None:
        return {}
    pair = f"{unquote(split.username)}:{unquote(split.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
