"""How a server is reached: which host, through which proxy, trusted by which roots."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple, Union
from urllib.parse import unquote, urlsplit

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
    def url(self) -> str:
        """The server's address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}/"


def find_route(session: requests.Session, url: str) -> Route:
    """Return the route to *url* with the settings of *session* and of the environment.

    Raises Unreachable for a proxy that cannot be used.
    """
    verify: Any = session.verify  # else an environment's bundle would win over False
    settings = session.merge_environment_settings(url, {}, False, verify, None)
    split = urlsplit(url)
    proxy = select_proxy(url, settings["proxies"])
    if proxy is not None:
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        if proxy.startswith("socks"):
            raise Unreachable("SOCKS proxies are not supported", hopeless=True)
    cert = settings["cert"]
    return Route(
        split.scheme,
        split.hostname or "",
        split.port or _PORTS[split.scheme],
        proxy,
        settings["verify"] is not False and (settings["verify"] or True),
        tuple(cert) if isinstance(cert, list) else cert,
    )


def proxy_authorization(proxy: str | None) -> str | None:
    """Return the value of Proxy-Authorization, None for a *proxy* without a user."""
    split = urlsplit(proxy or "")
    if split.username is None:
        return None
    pair = f"{unquote(split.username)}:{unquote(split.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()
