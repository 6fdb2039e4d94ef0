"""Requests sent, connections kept, answers read: HTTP/1.1 over a socket and who waits for it.

Between two requests a connection is a plain socket, and belongs to no event loop.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from functools import partial
from urllib.parse import urlsplit

import requests
from requests.structures import CaseInsensitiveDict
from urllib3.util.wait import wait_for_read

from choreo_wsgi.upstream.coding import Unpacker, is_packed
from choreo_wsgi.upstream.framing import FramingError
from choreo_wsgi.upstream.head import Head, head_end, parse_head

from ..policy import Timeout
from ..transports.base import Cancelled, Cut, receive_some, send_some, shutdown
from ..transports.blocking import Waiter, dial, waiter
from ..transports.route import Route, find_route, proxy_authorization

_IDLE_CONNECTIONS = 100


class Transport:
    """Sends requests; threads and tasks may share it, and processes after a fork."""

    def __init__(self, session: requests.Session) -> None:
        # For its settings alone: proxies, roots, and what the environment says of them.
        self._session = session
        self._pid = os.getpid()
        self._idle: dict[Route, list[socket.socket]] = {}
        self._closed = False

    def send(self, request: requests.PreparedRequest, timeout: Timeout, cancel: Cancel) -> Answer:
        """Send *request*; return the answer when its head is there.

        Raises Unreachable, Stalled when the answer takes too long, Cut when the connection
        breaks instead, FramingError for a head that cannot be read, and Cancelled.
        """
        route = find_route(self._session, urlsplit(request.url or ""))
        cancel.check()
        sock = self._take(route)
        if sock is None:
            sock = dial(route, timeout.connect)
        answer = Answer(self, route, sock, cancel)
        try:
            answer.begin(request, timeout.first_byte)
        except BaseException:
            answer.drop()
            raise
        return answer

    def _take(self, route: Route) -> socket.socket | None:
        """Return an idle connection on which nothing came since."""
        if self._pid != os.getpid():
            # A child of fork(): its parent reads the connections that are idle here.
            self._close_idle()
            self._pid = os.getpid()
        idle = self._idle.get(route, [])
        while True:
            try:
                sock = idle.pop()
            except IndexError:  # not asked before: another thread may have been quicker
                return None
            if not wait_for_read(sock, 0):
                return sock
            sock.close()

    def keep(self, route: Route, sock: socket.socket) -> None:
        """Take *sock* for the next request on *route*."""
        idle = self._idle.setdefault(route, [])
        idle.append(sock)
        if self._closed or len(idle) > _IDLE_CONNECTIONS:
            idle.pop(0).close()

    def close(self) -> None:
        """Close the idle connections, and those in use when their answers are read."""
        self._closed = True
        self._close_idle()

    def _close_idle(self) -> None:
        idle, self._idle = self._idle, {}
        for connections in idle.values():
            for sock in connections:
                sock.close()

    def __del__(self) -> None:
        if hasattr(self, "_idle"):
            self._close_idle()


class Cancel:
    """Gives up what is sent with it, for another task or thread than the one that waits."""

    def __init__(self) -> None:
        self.cancelled = False
        self._waits: Waiter | None = None
        self._lock = threading.Lock()

    def cancel(self) -> None:
        """Give up: who waits gets Cancelled at once, except while a connection is made."""
        self.cancelled = True
        with self._lock:
            if self._waits is not None:
                self._waits.interrupt()

    def check(self) -> None:
        """Raise Cancelled if that is what happened."""
        if self.cancelled:
            raise Cancelled

    def attach(self, waits: Waiter) -> None:
        """Remember who waits; raise Cancelled if it comes too late."""
        self._waits = waits
        self.check()

    def detach(self) -> None:
        """Forget who waits: nobody, and the connection may be another request's next."""
        with self._lock:
            self._waits = None

    def pause(self, seconds: float) -> None:
        """Wait; raises Cancelled."""
        pausing = waiter()
        try:
            self.attach(pausing)
            pausing.pause(seconds)
        finally:
            pausing.close()
            self.detach()


class Answer:
    """A response: its *status*, its *headers*, and its body as it comes.

    *started* is when its request was sent, on the clock ``time.monotonic``.
    """

    status: int
    headers: Mapping[str, str]
    _head: Head

    def __init__(
        self, transport: Transport, route: Route, sock: socket.socket, cancel: Cancel
    ) -> None:
        self.started = time.monotonic()
        self._transport = transport
        self._route = route
        self._sock = sock
        self._waits = waiter(sock)
        self._cancel = cancel
        self._rest = b""  # received but not yet asked for
        self._begun = False
        self._unpacker: Unpacker | None = None
        self._closed = False
        self._pid = os.getpid()

    def begin(self, request: requests.PreparedRequest, limit: float | None) -> None:
        """Send *request* and read the head.  Raises what ``Transport.send`` does."""
        self._cancel.attach(self._waits)
        deadline = None if limit is None else self.started + limit
        data = memoryview(_request_bytes(request, self._route))
        try:
            while data:
                sent = self._waits.perform(partial(send_some, data), True, deadline)
                data = data[sent:]
        except OSError as error:
            if error.errno is None:
                raise  # not the system's: a signal handler raised it in here
            # A server that does not want the rest may have answered already.
        method = request.method or "GET"
        self._head = parse_head(self._read_head(deadline), method)
        while 100 <= self._head.status < 200 and self._head.status != 101:  # 103 Early Hints
            self._head = parse_head(self._read_head(deadline), method)
        self.status = self._head.status
        found = self._head.headers
        names = [name for name, _ in found.items()]
        values = {name: ", ".join(found.get_all(name) or ()) for name in names}
        self.headers = CaseInsensitiveDict(values)

    def _read_head(self, deadline: float | None) -> bytes:
        """Return the bytes up to an empty line; what follows is the start of the body."""
        data = self._rest
        while (end := head_end(data)) < 0:
            more = self._receive(deadline)
            if not more:
                raise Cut("the connection was closed before the end of the response's head")
            data += more
        self._rest = data[end:]
        return data[:end]

    def _receive(self, deadline: float | None) -> bytes:
        try:
            return self._waits.perform(receive_some, False, deadline)
        except ssl.SSLEOFError:
            return b""
        except OSError as error:
            if error.errno is None:
                raise
            self._cancel.check()
            raise Cut(str(error)) from error

    def receive(self, deadline: float | None) -> bytes:
        """Return the next bytes of the body, or ``b""`` when it is complete.

        Raises Cut, Stalled at *deadline*, and Cancelled.
        """
        if self._pid != os.getpid():
            raise Cut("the connection belongs to the process that this one was forked from")
        framing = self._head.framing
        while not framing.done:
            if self._closed:
                raise Cancelled
            data, self._rest = self._rest, b""
            data = data or self._receive(deadline)
            if not data:
                self._cancel.check()
            try:
                body = framing.feed(data)
                if not body and framing.error is not None:
                    raise framing.error
                if not data:
                    framing.end()
                if body and not self._begun:
                    self._begun = True
                    coding = self.headers.get("content-encoding", "").lower()
                    self._unpacker = Unpacker() if is_packed(coding, body) else None
                if body and self._unpacker is not None:
                    body = self._unpacker.unpack(body)
            except FramingError as error:
                raise Cut(str(error)) from error
            if body:
                return body
        return b""

    def close(self) -> None:
        """Give the connection back if the body is complete, close it otherwise."""
        framing = self._head.framing
        reusable = framing.done and not framing.excess and self._head.keep_alive
        if self._closed or not reusable or self._rest:
            self.drop()
            return
        self._closed = True
        self._cancel.detach()
        self._waits.close()
        self._transport.keep(self._route, self._sock)

    def drop(self) -> None:
        """Close the connection; nothing is asked that could wait."""
        if self._closed:
            return
        self._closed = True
        self._cancel.detach()
        if self._pid == os.getpid():
            shutdown(self._sock)
            self._waits.close(self._sock)
        else:
            self._sock.close()  # the parent's loop goes on with its own


def _request_bytes(request: requests.PreparedRequest, route: Route) -> bytes:
    authority = urlsplit(request.url or "").netloc.rpartition("@")[2]
    target = request.path_url
    headers = {"Host": authority, **request.headers}
    if route.proxy is not None and route.scheme == "http":
        target = f"http://{authority}{target}"  # RFC 9112, section 3.2.2
        headers.update(proxy_authorization(route.proxy))
    lines = [f"{request.method} {target} HTTP/1.1", *map(": ".join, headers.items())]
    body = request.body or b""
    assert isinstance(body, bytes)
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body
