"""Below the sync client: sockets that requests connects, and threads that wait for them."""

from __future__ import annotations

import re
import socket
import threading
import time
from concurrent import futures
from concurrent.futures import Future
from http.client import HTTPException
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util.ssltransport import SSLTransport
from urllib3.util.wait import wait_for_read, wait_for_write

from .base import NOT_READY, Attempt, BaseWaiter, Nested, Route, Stalled, T, wants_to_write

# Seconds.  Python runs a signal's handler when the main thread gets to it: one that comes just
# before a wait does not end that.
_LONGEST_WAIT = 1.0
# urllib3 tells in words alone that a proxy refuses to make a tunnel, and with which status.
_REFUSED_TUNNEL = re.compile(r"Tunnel connection failed: 4\d\d\b")


class Waiter(BaseWaiter):
    """Waits in the calling thread; any other may shut the socket down to end that."""

    def perform(self, attempt: Attempt[T], write: bool, deadline: float) -> T:
        """Return ``attempt(sock)``, made until the socket lets it come to an end.

        Between two attempts the socket turns readable (or writable, with *write*).  Raises what it
        raises, and Stalled at *deadline* (of ``time.monotonic``).
        """
        while True:
            try:
                return attempt(self.sock)
            except NOT_READY as error:
                write = wants_to_write(error, write)
            if (left := deadline - time.monotonic()) <= 0:
                raise Stalled
            wait = wait_for_write if write else wait_for_read
            wait(self.sock, min(left, _LONGEST_WAIT))


waiter = Waiter


def dial(route: Route, limit: float | None) -> socket.socket:
    """Return a connected socket that never blocks; *limit* is in seconds.

    It counts for each address of the host.  Raises APIConnectionError.  In the main thread another
    thread connects: what a signal handler raises inside urllib3 could be taken there for a
    socket's (a ``TimeoutError`` for a time limit, an ``OSError`` for a reason to try the next
    address); raised in a main thread that only waits, it comes out at once and as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        return _connect(route, limit)
    made: Future[socket.socket] = Future()
    try:  # a handler may raise while the thread is started, too
        threading.Thread(target=_connect_into, args=(made, route, limit), daemon=True).start()
        while not made.done():
            futures.wait((made,), _LONGEST_WAIT)
        return made.result()
    except BaseException:
        made.add_done_callback(_close)  # one that comes too late
        raise
    finally:
        del made  # no cycle of error, traceback, frame and future


def _connect_into(made: Future[socket.socket], route: Route, limit: float | None) -> None:
    try:
        made.set_result(_connect(route, limit))
    except BaseException as error:
        made.set_exception(error)
    finally:
        del made


def _close(made: Future[socket.socket]) -> None:
    if made.exception() is None:
        made.result().close()


def _connect(route: Route, limit: float | None) -> socket.socket:
    """Have requests and urllib3 connect, go through the proxy and do TLS; take the socket."""
    request = requests.Request("GET", route.origin).prepare()
    proxies = {} if route.proxy is None else {route.scheme: route.proxy}
    connection: Any = None
    try:
        # A pool of its own: nothing is shared with other threads, or kept in it.
        pool: Any = HTTPAdapter().get_connection_with_tls_context(
            request, route.verify, proxies, route.cert
        )
        connection = pool._new_conn()
        connection.timeout = limit
        if route.proxy is not None and route.scheme == "https":
            pool._prepare_proxy(connection)  # connects, too
        else:
            connection.connect()
    except (OSError, HTTPError, HTTPException) as error:
        if connection is not None:
            connection.close()
        root: BaseException = error
        while (deeper := root.__cause__ or root.__context__) is not None:
            root = deeper
        # No connection was tried, or the proxy will say the same again.
        hopeless = connection is None or bool(_REFUSED_TUNNEL.search(str(root)))
        raise route.unreachable(root, hopeless) from error
    sock: Any = connection.sock
    if isinstance(sock, SSLTransport):  # it waits, and loses what it cannot send at once
        sock = Nested(sock.socket, sock.sslobj, sock.incoming, sock.outgoing)
    getattr(sock, "socket", sock).settimeout(0)
    return sock  # type: ignore[no-any-return]
