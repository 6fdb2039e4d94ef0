"""The async client's connections: made on the running event loop, with requests' settings."""

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
from .loops import new_waiter, on_trio


async def lookup(host: str, port: int, limit: float) -> list[Any]:
    """Return the result of ``socket.getaddrinfo``; raises Stalled after *limit* seconds."""
    find = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    with suppress(socket.gaierror):  # a numeric address needs no look-up
        return find(flags=socket.AI_NUMERICHOST)
    # A thousand streams that begin at once must not start a thousand threads: on trio the look-ups
    # are limited, on asyncio those of one name are shared.
    if trio := on_trio():
        limiter = _lookup_limiter(trio.lowlevel.current_trio_token())
        with trio.move_on_after(limit):
            run = trio.to_thread.run_sync
            return list(await run(find, limiter=limiter, abandon_on_cancel=True))
        raise Stalled
    loop = asyncio.get_running_loop()
    key = (loop, host, port)
    pending = _lookups.get(key)
    if pending is None:
        pending = _lookups[key] = loop.run_in_executor(None, find)
    try:
        return await asyncio.wait_for(asyncio.shield(pending), None if limit == inf else limit)
    except asyncio.TimeoutError:
        raise Stalled from None


#: The pending look-ups of asyncio, by loop, host and port.
_lookups: WeakValueDictionary[tuple[Any, str, int], asyncio.Future[list[Any]]]
_lookups = WeakValueDictionary()


@lru_cache(maxsize=4)
def _lookup_limiter(run: object) -> Any:
    """Return the limiter of the look-ups in one ``trio.run``, whose token is *run*."""
    return sys.modules["trio"].CapacityLimiter(2)


async def dial(route: Route, limit: float | None) -> socket.socket:
    """Return a connected non-blocking socket; *limit* is in seconds, for each address of the host.

    Raises APIConnectionError.
    """
    seconds = inf if limit is None else limit
    url = urlsplit(route.proxy or route.origin)
    failure: Exception = OSError("the host has no address")
    try:
        addresses = await lookup(url.hostname or "", url.port or base.PORTS[url.scheme], seconds)
    except OSError as error:
        raise route.unreachable(error) from error
    for address in addresses:
        try:
            return await _connect(address, route, time.monotonic() + seconds)
        except APIConnectionError:
            raise  # the proxy refused: another address would not help
        except (OSError, FramingError) as error:
            failure = error
    raise route.unreachable(failure) from failure


async def _connect(info: Any, route: Route, deadline: float) -> socket.socket:
    """Connect to the address *info* (of ``getaddrinfo``), through the proxy if any, with TLS."""
    family, kind, protocol, _, address = info
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.connect(address)
        except BlockingIOError:
            await _perform(sock, _check_connected, True, deadline)
        if route.proxy is not None and route.proxy.startswith("https:"):
            sock = _with_tls(sock, _context(route.verify, None), urlsplit(route.proxy).hostname)
            await _shake_hands(sock, deadline)
        if route.scheme == "https":
            if route.proxy is not None:
                await _tunnel(sock, route, deadline)
            sock = _with_tls(sock, _context(route.verify, route.cert), route.host)
            await _shake_hands(sock, deadline)
    except BaseException:
        sock.close()
        raise
    return sock


async def _perform(sock: socket.socket, attempt: Attempt[T], write: bool, deadline: float) -> T:
    waiter = new_waiter(sock)
    try:
        return await waiter.perform(attempt, write, deadline)
    finally:
        waiter.release()


async def _shake_hands(sock: Any, deadline: float) -> None:
    try:
        await _perform(sock, methodcaller("do_handshake"), True, deadline)
    except Stalled:
        raise Stalled("the TLS handshake timed out") from None


def _check_connected(sock: socket.socket) -> None:
    if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(error, os.strerror(error))


def _with_tls(sock: socket.socket, context: ssl.SSLContext, host: str | None) -> Any:
    """Return *sock* with TLS, before the handshake."""
    if not isinstance(sock, ssl.SSLSocket):
        return context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=host)
    return Nested(sock, tls, incoming, outgoing)


async def _tunnel(sock: socket.socket, route: Route, deadline: float) -> None:
    """Open a tunnel through the proxy to the server: RFC 9110, section 9.3.6."""
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
        raise route.unreachable(why, no_retry=answer.status < 500)


@lru_cache(maxsize=8)
def _context(verify: Union[bool, str], cert: Union[str, tuple[str, str], None]) -> ssl.SSLContext:
    """Return the context for requests' *verify* and *cert*; cached: reading the roots is slow."""
    roots = DEFAULT_CA_BUNDLE_PATH if verify is True else verify
    where: dict[str, Any] = {"capath" if Path(roots).is_dir() else "cafile": roots} if roots else {}
    context = ssl.create_default_context(**where)
    if not roots:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert:
        context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
    return context
