"""The sync client's transport: requests connects the sockets, and threads wait for them."""

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

# Seconds.  Python runs a signal's handler only in the main thread, between two instructions: a
# signal that arrives just before a wait does not interrupt it.
_LONGEST_WAIT = 1.0
# urllib3 reports that a proxy refuses a tunnel, and the status, only in the error's text.
_REFUSED_TUNNEL = re.compile(r"Tunnel connection failed: 4\d\d\b")


class Waiter(BaseWaiter):
    """Waits in the calling thread; any other thread may shut the socket down to wake it."""

    def perform(self, attempt: Attempt[T], write: bool, deadline: float) -> T:
        """Return ``attempt(sock)``, repeated until it does not raise NOT_READY.

        Between two attempts it waits until the socket is readable (or writable, with *write*).
        Raises the attempt's error, and Stalled at *deadline* (of ``time.monotonic``).
        """
        while True:
            try:
                return attempt(self.sock)
            except NOT_READY as error:
                write = wants_to_write(error, write)
            if (remaining := deadline - time.monotonic()) <= 0:
                raise Stalled
            wait = wait_for_write if write else wait_for_read
            wait(self.sock, min(remaining, _LONGEST_WAIT))


new_waiter = Waiter


def dial(route: Route, limit: float | None) -> socket.socket:
    """Return a connected non-blocking socket; *limit* is in seconds, for each address of the host.

    Raises APIConnectionError.  For the main thread another thread connects: an exception that a
    signal handler raises inside urllib3 could be mistaken there for one of the socket's (a
    ``TimeoutError`` for a time limit, an ``OSError`` for a reason to try the next address).  In a
    main thread that only waits it is raised to the caller at once and unchanged.
    """
    if threading.current_thread() is not threading.main_thread():
        return _connect(route, limit)
    future: Future[socket.socket] = Future()
    try:  # a signal handler may raise while the thread is being started, too
        threading.Thread(target=_connect_into, args=(future, route, limit), daemon=True).start()
        while not future.done():
            futures.wait((future,), _LONGEST_WAIT)
        return future.result()
    except BaseException:
        future.add_done_callback(_close)  # a socket that is connected later
        raise
    finally:
        del future  # no cycle of error, traceback, frame and future


def _connect_into(future: Future[socket.socket], route: Route, limit: float | None) -> None:
    try:
        future.set_result(_connect(route, limit))
    except BaseException as error:
        future.set_exception(error)
    finally:
        del future


def _close(future: Future[socket.socket]) -> None:
    if future.exception() is None:
        future.result().close()


def _connect(route: Route, limit: float | None) -> socket.socket:
    """Connect by requests and urllib3, through the proxy if any, with TLS; return the socket."""
    request = requests.Request("GET", route.origin).prepare()
    proxies = {} if route.proxy is None else {route.scheme: route.proxy}
    connection: Any = None
    try:
        # A new adapter, so that nothing is shared with other threads or kept in a pool.
        pool: Any = HTTPAdapter().get_connection_with_tls_context(
            request, route.verify, proxies, route.cert
        )
        connection = pool._new_conn()
        connection.timeout = limit
        if route.proxy is not None and route.scheme == "https":
            pool._prepare_proxy(connection)  # connects as well
        else:
            connection.connect()
    except (OSError, HTTPError, HTTPException) as error:
        if connection is not None:
            connection.close()
        root: BaseException = error
        while (cause := root.__cause__ or root.__context__) is not None:
            root = cause
        # No connection was tried, or the proxy will refuse again.
        no_retry = connection is None or bool(_REFUSED_TUNNEL.search(str(root)))
        raise route.unreachable(root, no_retry) from error
    sock: Any = connection.sock
    if isinstance(sock, SSLTransport):  # which blocks, and loses bytes that it cannot send at once
        sock = Nested(sock.socket, sock.sslobj, sock.incoming, sock.outgoing)
    getattr(sock, "socket", sock).settimeout(0)
    return sock  # type: ignore[no-any-return]
