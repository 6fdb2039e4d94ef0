"""Below the async client: sockets connected on the running loop, as requests would have them."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
import time
from contextlib import suppress
from functools import lru_cache, partial
from math import inf
from operator import methodcaller
from pathlib import Path
from typing import Any, Union
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from choreo_wsgi.upstream.framing import FramingError, Truncated
from choreo_wsgi.upstream.head import head_end, parse_head

from ..errors import APIConnectionError
from . import base
from .base import Attempt, Nested, Route, Stalled, T, receive_some
from .loops import on_trio, waiter


async def lookup(host: str, port: int, limit: float) -> list[Any]:
    """Return what ``socket.getaddrinfo`` does.  Raises Stalled after *limit* seconds."""
    find = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    with suppress(socket.gaierror):  # an address: nothing to look up
        return find(flags=socket.AI_NUMERICHOST)
    # A thousand streams that begin at once must not begin a thousand threads.
    if trio := on_trio():
        limiter = _two_at_a_time(trio.lowlevel.current_trio_token())
        with trio.move_on_after(limit):
            run = trio.to_thread.run_sync
            return list(await run(find, limiter=limiter, abandon_on_cancel=True))
        raise Stalled
    loop = asyncio.get_running_loop()
    key = (loop, host, port)
    found = _lookups.get(key)
    if found is None:
        found = _lookups[key] = loop.run_in_executor(None, find)
    try:
        return await asyncio.wait_for(asyncio.shield(found), None if limit == inf else limit)
    except asyncio.TimeoutError:
        raise Stalled from None


#: Those under way on asyncio.
_lookups: WeakValueDictionary[tuple[Any, str, int], asyncio.Future[list[Any]]]
_lookups = WeakValueDictionary()


@lru_cache(maxsize=4)
def _two_at_a_time(run: object) -> Any:
    """Return the limiter of the look-ups in the ``trio.run`` that the token *run* is of."""
    return sys.modules["trio"].CapacityLimiter(2)


async def dial(route: Route, limit: float | None) -> socket.socket:
    """Return a connected socket that never blocks; *limit* is in seconds.

    It counts for each address of the host.  Raises APIConnectionError.
    """
    seconds = inf if limit is None else limit
    at = urlsplit(route.proxy or route.origin)
    failure: Exception = OSError("it has no address")
    try:
        places = await lookup(at.hostname or "", at.port or base.PORTS[at.scheme], seconds)
    except OSError as error:
        raise route.unreachable(error) from error
    for place in places:
        try:
            return await _establish(place, route, time.monotonic() + seconds)
        except APIConnectionError:
            raise  # the proxy's word counts
        except (OSError, FramingError) as error:
            failure = error
    raise route.unreachable(failure) from failure


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
        waits.release()


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
    headers = {"Host": route.authority, **route.proxy_headers}
    request = memoryview(base.head(f"CONNECT {route.authority}", headers))
    await _perform(sock, partial(base.send_some, request), True, deadline)
    data = b""
    while (end := head_end(data)) < 0:
        data += (more := await _perform(sock, receive_some, False, deadline))
        if not more:
            raise Truncated
    answer = parse_head(data[:end], "HEAD")
    if not 200 <= answer.status < 300:
        why = f"the proxy refused the tunnel: {answer.status} {answer.reason}"
        raise route.unreachable(why, hopeless=answer.status < 500)


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
