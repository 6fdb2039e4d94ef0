"""Below the async client: sockets connected on the event loop, as requests would have them."""

from __future__ import annotations

import os
import socket
import ssl
import time
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar, Union
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from choreo_wsgi.upstream.framing import FramingError
from choreo_wsgi.upstream.head import head_end, parse_head

from .base import Cut, Nested, Stalled, Unreachable, receive_some, send_some
from .route import Route, proxy_authorization
from .waiting import Attempt
from .waiting import Waiter as Waiter
from .waiting import waiter as waiter

T = TypeVar("T")


async def dial(route: Route, limit: float | None) -> socket.socket:
    """Return a connected socket that never blocks; *limit* is in seconds.

    It counts for each address of the host.  Raises Unreachable.
    """
    proxy = urlsplit(route.proxy or f"{route.scheme}://{route.authority}")
    host, port = proxy.hostname or "", proxy.port or (443 if proxy.scheme == "https" else 80)
    failure: Exception = OSError("no address")
    try:
        deadline = None if limit is None else time.monotonic() + limit
        for family, kind, protocol, _, address in await _lookup(host, port, deadline):
            deadline = None if limit is None else time.monotonic() + limit
            try:
                sock = socket.socket(family, kind, protocol)
                return await _establish(sock, address, route, deadline)
            except (OSError, Cut, Stalled, FramingError) as error:
                failure = error
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
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.connect(address)
        except BlockingIOError:
            await _perform(sock, _connected, True, deadline)
        if route.proxy is not None:
            proxy = urlsplit(route.proxy)
            if proxy.scheme == "https":
                sock = _secured(sock, _context(route.verify, None), proxy.hostname)
                await _perform(sock, _shake_hands, True, deadline)
            if route.scheme == "https":
                await _tunnel(sock, route, deadline)
        if route.scheme == "https":
            sock = _secured(sock, _context(route.verify, route.cert), route.host)
            await _perform(sock, _shake_hands, True, deadline)
    except BaseException:
        sock.close()
        raise
    return sock


async def _perform(
    sock: socket.socket, attempt: Attempt[T], write: bool, deadline: float | None
) -> T:
    waits = waiter(sock)
    try:
        return await waits.perform(attempt, write, deadline)
    finally:
        waits.close()


def _connected(sock: socket.socket) -> None:
    if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(error, os.strerror(error))


def _secured(sock: socket.socket, context: ssl.SSLContext, host: str | None) -> Any:
    """Return *sock* with TLS on it, the handshake still to come."""
    if not isinstance(sock, ssl.SSLSocket):
        return context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=host)
    return Nested(sock, tls, incoming, outgoing)


def _shake_hands(sock: Any) -> None:
    sock.do_handshake()


async def _tunnel(sock: socket.socket, route: Route, deadline: float | None) -> None:
    """Have the proxy connect to the server: RFC 9110, section 9.3.6.  Raises Unreachable."""
    headers = {"Host": route.authority, **proxy_authorization(route.proxy)}
    lines = [f"CONNECT {route.authority} HTTP/1.1", *map(": ".join, headers.items())]
    request = memoryview(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    await _perform(sock, partial(send_some, request), True, deadline)
    answer = b""
    while (end := head_end(answer)) < 0:
        answer += (more := await _perform(sock, receive_some, False, deadline))
        if not more:
            raise Cut("the proxy closed the connection")
    head = parse_head(answer[:end], "HEAD")
    if not 200 <= head.status < 300:
        why = f"the proxy refused the tunnel: {head.status} {head.reason}"
        raise Unreachable(why, hopeless=head.status < 500)


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
