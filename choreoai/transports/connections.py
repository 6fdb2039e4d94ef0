"""Connections of requests that tell who uses them, and responses read from the socket itself.

requests and urllib3 connect, do TLS and proxies, send, and keep connections for the next
call.  The classes here go in below them: a connection reports to its :class:`Watcher`, and
a :class:`Wire` reads the response, so that a frame is delivered when it arrives, and a time
limit or a signal handler's exception is never mistaken for something else.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.wait import wait_for_read, wait_for_write

from .base import BLOCK, Cut, Network, Stalled

_LONGEST_WAIT = 3600.0  # seconds; poll() cannot wait for more than some weeks
_INTERIM = re.compile(rb"HTTP/1\.\d 1\d\d\b")
_current = threading.local()


class Watcher(Protocol):
    """Who wants to know about the connection that serves a request."""

    def attach(self, connection: HTTPConnection) -> None:
        """*connection* begins to connect, or has connected, or is about to send."""

    def answering(self, wire: Wire, head: http.client.HTTPResponse) -> None:
        """The request was sent; *head* is about to be read from *wire*."""


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Have *watcher* told about the connections that this thread uses in the block."""
    _current.watcher = watcher
    try:
        yield
    finally:
        _current.watcher = None


class Wire:
    """The receiving side of a connected socket, for one response."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.rest = b""  # received but not yet asked for
        self._timeout = sock.gettimeout()
        self.deadline = None if self._timeout is None else time.monotonic() + self._timeout
        # http.client closes its socket early when the server will close the connection;
        # the descriptor then lives on for as long as a file on it is open.
        self._hold = sock.makefile("rb", buffering=0)
        sock.settimeout(0)

    def makefile(self, mode: str) -> _HeadFile:
        """Return what http.client reads the response head from."""
        return _HeadFile(self)

    def receive(self, deadline: float | None) -> bytes:
        """Return the next bytes, or ``b""`` at their end.

        Raises Stalled at *deadline* (of ``time.monotonic``), Cut on a broken connection.
        """
        if self.rest:
            data, self.rest = self.rest, b""
            return data
        while True:
            wait = wait_for_read
            try:
                return self.sock.recv(BLOCK)
            except (BlockingIOError, ssl.SSLWantReadError):
                pass
            except ssl.SSLWantWriteError:
                wait = wait_for_write
            except OSError as error:
                if error.errno is None:
                    raise  # not the system's: a signal handler raised it in here
                raise Cut(str(error)) from error
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise Stalled
            wait(self.sock, None if left is None else min(left, _LONGEST_WAIT))

    def close(self) -> None:
        """Let go of the socket, which goes back to how it was."""
        with suppress(OSError):
            self.sock.settimeout(self._timeout)
        self._hold.close()

    def drop(self, shared: bool) -> None:
        """Close the socket; a *shared* one is another process's too, and stays open there."""
        if not shared:
            shutdown(self.sock)
        self._hold.close()
        self.sock.close()


class _HeadFile(io.BufferedIOBase):
    """The lines of a response head; what follows the head stays in the wire."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._first = True

    def readline(self, size: int | None = -1) -> bytes:
        line = self._line(size)
        if self._first:
            # The standard library passes over 100 Continue, not over 103 Early Hints.
            while _INTERIM.match(line):
                while self._line(size).strip():
                    pass
                line = self._line(size)
            self._first = False
        return line

    def _line(self, size: int | None) -> bytes:
        data = self._wire.rest
        self._wire.rest = b""
        limit = 1 << 16 if size is None or size < 0 else size
        while (end := data.find(b"\n") + 1) == 0 and len(data) < limit:
            more = self._wire.receive(self._wire.deadline)
            if not more:
                # The standard library would take the head for complete.
                raise Cut("the connection was closed before the end of the response's head")
            data += more
        end = min(end or limit, limit)
        self._wire.rest = data[end:]
        return data[:end]

    def close(self) -> None:
        if not self.closed:
            self._wire.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """A response whose head and body come through a :class:`Wire`."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        wire = Wire(sock)
        super().__init__(wire, *args, **options)  # type: ignore[arg-type]
        watcher: Watcher | None = getattr(_current, "watcher", None)
        if watcher is not None:
            watcher.answering(wire, self)


class _Watched(HTTPConnection):
    """A connection that tells whom it serves."""

    response_class: type[http.client.HTTPResponse] = _Response

    def connect(self) -> None:
        _attach(self)
        # A proxy's answer to CONNECT is no answer to the request.
        self.response_class = http.client.HTTPResponse
        try:
            super().connect()
        finally:
            self.response_class = _Response
        _attach(self)

    def request(self, *args: Any, **options: Any) -> None:
        _attach(self)
        super().request(*args, **options)


class _WatchedTLS(_Watched, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedTLS


_POOLS = {"http": _Pool, "https": _TLSPool}


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        if proxy.lower().startswith("socks"):
            raise requests.exceptions.InvalidSchema("SOCKS proxies are not supported")
        manager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = _POOLS
        return manager


def new_session(network: Network, connections: int) -> requests.Session:
    """Return a session that keeps up to *connections* idle connections to a host."""
    session = requests.Session()
    session.proxies.update(network.proxies or {})
    session.verify, session.cert = network.verify, network.cert
    for prefix in ("http://", "https://"):
        session.mount(prefix, _Adapter(pool_maxsize=connections, max_retries=0))
    return session


def _attach(connection: HTTPConnection) -> None:
    watcher: Watcher | None = getattr(_current, "watcher", None)
    if watcher is not None:
        watcher.attach(connection)


def shutdown(sock: socket.socket) -> None:
    """End both directions of *sock*; a thread that waits for it goes on at once."""
    # The method of the plain socket: that of a TLS socket would take the TLS object away
    # from under a thread that is reading.  TLS within TLS is no socket, but has one.
    plain: socket.socket = getattr(sock, "socket", sock)
    with suppress(OSError):
        socket.socket.shutdown(plain, socket.SHUT_RDWR)
