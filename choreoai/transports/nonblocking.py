"""Below the async client: sockets connected on the event loop, as requests would have them."""

from __future__ import annotations

import os
import socket
import ssl
import time
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Union
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from .base import Cut, Stalled, Unreachable, receive_some, send_some
from .route import Route, proxy_authorization
from .waiting import Waiter as Waiter
from .waiting import waiter as waiter

_LONGEST_HEAD = 64 * 1024


async def dial(route: Route, limit: float | None) -> socket.socket:
    """Return a connected socket, without a time limit of its own; *limit* is in seconds.

    It counts for each address of the host.  Raises Unreachable.
    """
    proxy = None if route.proxy is None else urlsplit(route.proxy)
    if proxy is not None and proxy.scheme != "http":
        raise Unreachable(f"a proxy at {proxy.scheme}:// is not supported here", hopeless=True)
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
    hopeless = isinstance(failure, ssl.SSLError)
    raise Unreachable(str(failure), hopeless=hopeless) from failure


async def _lookup(host: str, port: int, deadline: float | None) -> list[Any]:
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
    request = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    await waits.perform(partial(send_some, memoryview(request)), True, deadline)
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
