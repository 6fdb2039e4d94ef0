"""Requests sent, connections kept, answers read: HTTP/1.1 over a socket and who waits for it.

Between two requests a connection is a plain socket, and belongs to no event loop.
"""

from __future__ import annotations

import http.client
import io
import os
import re
import socket
import ssl
import threading
import time
from email.message import Message
from functools import partial
from urllib.parse import urlsplit

import requests
from urllib3.util.wait import wait_for_read

from choreo_wsgi.upstream.framing import FramingError

from ..policy import Timeout
from ..transports.base import (
    Body,
    Cancelled,
    Cut,
    Network,
    receive_some,
    send_some,
    shutdown,
)
from ..transports.nonblocking import Waiter, dial, waiter
from ..transports.route import Route, find_route, proxy_authorization

_IDLE_CONNECTIONS = 100
_LONGEST_HEAD = 64 * 1024
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r\n]*)?\r?\n")


class AsyncTransport:
    """Sends requests; threads and tasks may share it, and processes after a fork."""

    def __init__(self, network: Network) -> None:
        # For its settings alone: proxies, roots, and what the environment says of them.
        self._session = network.session()
        self._pid = os.getpid()
        self._idle: dict[Route, list[socket.socket]] = {}
        self._closed = False

    async def send(
        self, request: requests.PreparedRequest, timeout: Timeout, cancel: AsyncCancel
    ) -> AsyncAnswer:
        """Send *request*; return the answer when its head is there.

        Raises Unreachable, Stalled when the answer takes too long, Cut when the connection
        breaks instead, FramingError for a head that contradicts itself, and Cancelled.
        """
        url = request.url or ""
        route = find_route(self._session, url)
        started = time.monotonic()
        cancel.check()
        sock = self._take(route)
        if sock is None:
            sock = await dial(route, timeout.connect)
        waits = waiter(sock)
        answer = AsyncAnswer(self, route, sock, waits, cancel, started)
        try:
            cancel.attach(waits)
            limit = timeout.first_byte
            deadline = None if limit is None else time.monotonic() + limit
            await answer.begin(request, deadline)
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


class AsyncCancel:
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

    async def pause(self, seconds: float) -> None:
        """Wait; raises Cancelled."""
        pausing = waiter()
        self.attach(pausing)
        try:
            await pausing.pause(seconds)
        finally:
            pausing.close()
            self.detach()


class AsyncAnswer:
    """A response: its *status*, its *headers*, and its body as it comes.

    *started* is when its request was sent, on the clock ``time.monotonic``.
    """

    status: int
    headers: Message
    body: Body

    def __init__(
        self,
        transport: AsyncTransport,
        route: Route,
        sock: socket.socket,
        waits: Waiter,
        cancel: AsyncCancel,
        started: float,
    ) -> None:
        self.started = started
        self._transport = transport
        self._route = route
        self._sock = sock
        self._waits = waits
        self._cancel = cancel
        self._rest = b""  # received but not yet asked for
        self._keep_alive = False
        self._closed = False
        self._pid = os.getpid()

    async def begin(self, request: requests.PreparedRequest, deadline: float | None) -> None:
        """Send *request* and read the head.  Raises what ``Transport.send`` does."""
        data = memoryview(_request_bytes(request, self._route))
        try:
            while data:
                sent = await self._waits.perform(partial(send_some, data), True, deadline)
                data = data[sent:]
        except OSError as error:
            if error.errno is None:
                raise  # not the system's: a signal handler raised it in here
            # A server that does not want the rest may have answered already.
        head = await self._read_head(deadline)
        while head[9:10] == b"1":  # 100 Continue, 103 Early Hints: the answer is still to come
            head = await self._read_head(deadline)
        match = _STATUS.match(head)
        if match is None:
            raise FramingError("it is not HTTP")
        try:
            self.headers = http.client.parse_headers(io.BytesIO(head[match.end() :]))
        except http.client.HTTPException as error:
            raise FramingError(str(error)) from error
        self.status = int(match[2])
        self.body = Body(request.method or "GET", self.status, self.headers)
        said = (self.headers.get("Connection") or "").lower()
        self._keep_alive = "close" not in said if match[1] == b"1" else "keep-alive" in said

    async def _read_head(self, deadline: float | None) -> bytes:
        """Return the bytes up to an empty line; what follows is the start of the body."""
        data = self._rest
        while not (found := _HEAD_END.search(data)):
            if len(data) > _LONGEST_HEAD:
                raise FramingError("its head is too long")
            more = await self._receive(deadline)
            if not more:
                raise Cut("the connection was closed before the end of the response's head")
            data += more
        self._rest = data[found.end() :]
        return data[: found.end()]

    async def _receive(self, deadline: float | None) -> bytes:
        try:
            return await self._waits.perform(receive_some, False, deadline)
        except ssl.SSLEOFError:
            return b""
        except OSError as error:
            if error.errno is None:
                raise
            self._cancel.check()
            raise Cut(str(error)) from error

    async def receive(self, deadline: float | None) -> bytes:
        """Return the next bytes of the body, or ``b""`` when it is complete.

        Raises Cut, Stalled at *deadline*, and Cancelled.
        """
        if self._pid != os.getpid():
            raise Cut("the connection belongs to the process that this one was forked from")
        while not self.body.done:
            if self._closed:
                raise Cancelled
            data, self._rest = self._rest, b""
            data = data or await self._receive(deadline)
            if not data:
                self._cancel.check()
            if body := self.body.feed(data):
                return body
        return b""

    def close(self) -> None:
        """Give the connection back if the body is complete, close it otherwise."""
        if self._closed or not (self.body.reusable and self._keep_alive) or self._rest:
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
    url = urlsplit(request.url or "")
    authority = url.netloc.rpartition("@")[2]
    target = request.path_url
    headers = {"Host": authority, **request.headers}
    if route.proxy is not None and route.scheme == "http":
        target = f"http://{authority}{target}"  # RFC 9112, section 3.2.2
        if authorization := proxy_authorization(route.proxy):
            headers["Proxy-Authorization"] = authorization
    lines = [f"{request.method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    body = request.body or b""
    assert isinstance(body, bytes)
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body
