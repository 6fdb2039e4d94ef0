"""Below the async client: sockets connected on the event loop, as requests would have them."""

from __future__ import annotations

import os
import socket
import ssl
import time
from functools import lru_cache, partial
from math import inf
from operator import methodcaller
from pathlib import Path
from typing import Any, Union
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from choreo_wsgi.upstream.framing import FramingError, Truncated
from choreo_wsgi.upstream.head import head_end, parse_head

from ..errors import APIConnectionError
from .base import Attempt, Nested, Stalled, T, receive_some, send_some, unreachable
from .route import Route, proxy_authorization
from .waiting import Waiter as Waiter
from .waiting import lookup
from .waiting import waiter as waiter


async def dial(route: Route, limit: float | None) -> socket.socket:
    """Return a connected socket that never blocks; *limit* is in seconds.

    It counts for each address of the host.  Raises APIConnectionError.
    """
    seconds = inf if limit is None else limit
    at = urlsplit(route.proxy or route.origin)
    port = at.port or (443 if at.scheme == "https" else 80)
    failure: Exception = OSError("it has no address")
    places: list[Any] = []
    try:
        places = await lookup(at.hostname or "", port, seconds)
    except (OSError, Stalled) as error:
        failure = error
    for place in places:
        try:
            return await _establish(place, route, time.monotonic() + seconds)
        except APIConnectionError:
            raise  # the proxy's word counts
        except (OSError, Stalled, FramingError) as error:
            failure = error
    timed_out, hopeless = isinstance(failure, Stalled), isinstance(failure, ssl.SSLError)
    why = f"not within {limit} seconds" if timed_out else failure
    raise unreachable(route.origin, why, timed_out=timed_out, hopeless=hopeless) from failure


async def _establish(place: Any, route: Route, deadline: float) -> socket.socket:
    """Connect to *place*, go through the proxy if there is one, and do TLS."""
    family, kind, protocol, _, address = place
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.connect(address)
        except BlockingIOError:
            await _perform(sock, _connected, True, deadline)
        if route.proxy is not None and route.proxy.startswith("https:"):
            sock = _secured(sock, _context(route.verify, None), urlsplit(route.proxy).hostname)
            await _perform(sock, _shake_hands, True, deadline)
        if route.scheme == "https":
            if route.proxy is not None:
                await _tunnel(sock, route, deadline)
            sock = _secured(sock, _context(route.verify, route.cert), route.host)
            await _perform(sock, _shake_hands, True, deadline)
    except BaseException:
        sock.close()
        raise
    return sock


async def _perform(sock: socket.socket, attempt: Attempt[T], write: bool, deadline: float) -> T:
    waits = waiter(sock)
    try:
        return await waits.perform(attempt, write, deadline)
    finally:
        waits.close(keep=True)


_shake_hands: Attempt[None] = methodcaller("do_handshake")


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


async def _tunnel(sock: socket.socket, route: Route, deadline: float) -> None:
    """Have the proxy connect to the server: RFC 9110, section 9.3.6."""
    headers = {"Host": route.authority, **proxy_authorization(route.proxy)}
    lines = [f"CONNECT {route.authority} HTTP/1.1", *map(": ".join, headers.items())]
    request = memoryview(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    await _perform(sock, partial(send_some, request), True, deadline)
    answer = b""
    while (end := head_end(answer)) < 0:
        answer += (more := await _perform(sock, receive_some, False, deadline))
        if not more:
            raise Truncated
    head = parse_head(answer[:end], "HEAD")
    if not 200 <= head.status < 300:
        why = f"the proxy refused the tunnel: {head.status} {head.reason}"
        raise unreachable(route.origin, why, hopeless=head.status < 500)


@lru_cache(maxsize=8)
def _context(verify: Union[bool, str], cert: Union[str, tuple[str, str], None]) -> ssl.SSLContext:
    """Return what requests' settings *verify* and *cert* mean; reading the roots takes long."""
    roots = DEFAULT_CA_BUNDLE_PATH if verify is True else verify
    where: dict[str, Any] = {"capath" if Path(roots).is_dir() else "cafile": roots} if roots else {}
    context = ssl.create_default_context(**where)
    if not roots:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert:
        context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
    return context
