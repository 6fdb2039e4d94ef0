"""Connecting on the event loop: addresses, proxies and TLS, as requests would have it."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import time
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple, Union
from urllib.parse import unquote, urlsplit

import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH, select_proxy

from .base import BLOCK, Cut, Stalled, Unreachable
from .waiting import Waiter, waiter

_PORTS = {"http": 80, "https": 443}
_LONGEST_HEAD = 64 * 1024
_PIECE = 256 * 1024


class Route(NamedTuple):
    """How a server is reached; requests with equal routes can share a connection."""

    scheme: str
    host: str
    port: int
    proxy: str | None
    verify: Union[bool, str]
    cert: Union[str, tuple[str, str], None]


def find_route(session: requests.Session, url: str) -> Route:
    """Return the route to *url* with the settings of *session* and of the environment.

    Raises Unreachable for a proxy that cannot be used.
    """
    settings = session.merge_environment_settings(url, {}, False, None, None)
    split = urlsplit(url)
    proxy = select_proxy(url, settings["proxies"])
    if proxy is not None:
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        if not proxy.startswith("http://"):
            kind = proxy.partition("://")[0]
            what = "SOCKS proxies are" if kind.startswith("socks") else f"a proxy at {kind}:// is"
            raise Unreachable(f"{what} not supported", hopeless=True)
    cert = settings["cert"]
    return Route(
        split.scheme,
        split.hostname or "",
        split.port or _PORTS[split.scheme],
        proxy,
        settings["verify"] is not False and (settings["verify"] or True),
        tuple(cert) if isinstance(cert, list) else cert,
    )


async def dial(route: Route, limit: float | None) -> socket.socket:
    """Return a connected socket, without a time limit of its own; *limit* is in seconds.

    It counts for each address of the host.  Raises Unreachable.
    """
    proxy = None if route.proxy is None else urlsplit(route.proxy)
    host, port = (proxy.hostname or "", proxy.port or 80) if proxy else (route.host, route.port)
    failure: Exception = OSError("no address")
    try:
        deadline = None if limit is None else time.monotonic() + limit
        addresses = await _lookup(host, port, deadline)
        for family, kind, protocol, _, address in addresses:
            deadline = None if limit is None else time.monotonic() + limit
            sock = socket.socket(family, kind, protocol)
            try:
                return await _establish(sock, address, route, deadline)
            except (OSError, Cut, Stalled) as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
    except (OSError, Stalled) as error:
        failure = error
    if isinstance(failure, Stalled):
        raise Unreachable(f"not within {limit} seconds", timed_out=True) from failure
    hopeless = isinstance(failure, ssl.SSLCertVerificationError)
    raise Unreachable(str(failure), hopeless=hopeless) from failure


async def _lookup(host: str, port: int, deadline: float | None) -> list[tuple]:  # type: ignore[type-arg]
    try:  # an address: nothing to look up
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await waiter().lookup(host, port, deadline)


async def _establish(
    sock: socket.socket, address: tuple[object, ...], route: Route, deadline: float | None
) -> socket.socket:
    """Connect *sock*, go through the proxy if there is one, and put TLS on it."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    waits = waiter(sock)
    try:
        try:
            sock.connect(address)
        except BlockingIOError:
            await waits.perform(_connected, True, deadline)
        if route.scheme == "http":
            return sock
        if route.proxy is not None:
            await _tunnel(waits, route, deadline)
    finally:
        waits.close()
    secure = _context(route.verify, route.cert).wrap_socket(
        sock, server_hostname=route.host, do_handshake_on_connect=False
    )
    waits = waiter(secure)
    try:
        await waits.perform(lambda _: secure.do_handshake(), True, deadline)
    except BaseException:
        waits.close()
        secure.close()
        raise
    waits.close()
    return secure


def _connected(sock: socket.socket) -> None:
    if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(error, os.strerror(error))


async def _tunnel(waits: Waiter, route: Route, deadline: float | None) -> None:
    """Have the proxy connect to the server: RFC 9110, section 9.3.6.  Raises Unreachable."""
    host = f"[{route.host}]" if ":" in route.host else route.host
    lines = [f"CONNECT {host}:{route.port} HTTP/1.1", f"Host: {host}:{route.port}"]
    if authorization := proxy_authorization(route.proxy):
        lines.append(f"Proxy-Authorization: {authorization}")
    await send(waits, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"), deadline)
    head = b""
    while b"\r\n\r\n" not in head:
        more = await waits.perform(receive_some, False, deadline)
        head += more
        if not more or len(head) > _LONGEST_HEAD:
            raise Cut("the proxy closed the connection")
    status = head.split(b"\r\n", 1)[0].decode("latin-1")
    code = status.split(" ")[1:2]
    if not code or not code[0].startswith("2"):
        raise Unreachable(f"the proxy refused the tunnel: {status}", hopeless=code[:1] < ["5"])


def proxy_authorization(proxy: str | None) -> str | None:
    """Return the value of Proxy-Authorization, None for a *proxy* without a user."""
    split = urlsplit(proxy or "")
    if split.username is None:
        return None
    pair = f"{unquote(split.username)}:{unquote(split.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def receive_some(sock: socket.socket) -> bytes:
    """Receive what is there: an attempt for :meth:`Waiter.perform`."""
    return sock.recv(BLOCK)


async def send(waits: Waiter, data: bytes, deadline: float | None) -> None:
    """Send all of *data*.  Raises OSError, and Stalled at *deadline*."""
    view = memoryview(data)
    while view:
        view = view[await waits.perform(partial(_send_some, view[:_PIECE]), True, deadline) :]


def _send_some(data: memoryview, sock: socket.socket) -> int:
    return sock.send(data)


@lru_cache(maxsize=8)
def _context(verify: Union[bool, str], cert: Union[str, tuple[str, str], None]) -> ssl.SSLContext:
    """Return what requests' settings *verify* and *cert* mean; reading the roots takes long."""
    roots = DEFAULT_CA_BUNDLE_PATH if verify is True else verify
    if not roots:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif Path(roots).is_dir():
        context = ssl.create_default_context(capath=roots)
    else:
        context = ssl.create_default_context(cafile=roots)
    if cert:
        context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
    return context
