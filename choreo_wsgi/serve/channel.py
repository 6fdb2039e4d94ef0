"""One connection: what is read is checked, what is written leaves at once.

It stands in for waitress's channel, which copies what an application yields into buffers.  Here
each block is handed to the system as it is, by whoever made it.  What the system does not take
at once stays here, and nothing more is asked of that answer until the client has taken it: a
slow reader holds back its own stream, and neither a thread nor the loop.

Who may touch the socket: the loop reads, flushes and closes it, a worker may send.  Closing
and sending happen under ``outbuf_lock``, so no byte goes to a descriptor used anew; the lock
is never held while waiting.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import threading
import time
from collections.abc import Iterable
from typing import Any

from waitress.channel import ClientDisconnected

from ..errors import ChoreoError
from .parser import Parser
from .tasks import Task

logger = logging.getLogger(__name__)

#: Seconds in which a request's head must be there, and after which its body must have come
#: at SLOWEST_BODY bytes a second; a slow sender ties up one of a limited number of connections.
REQUEST_SECONDS = 20.0
SLOWEST_BODY = 1024

#: Seconds that a connection may lie idle between requests: longer than the 60 s of nginx's and
#: AWS's pools, so that they and not we close it, and no request crosses the closing.
IDLE_SECONDS = 75.0

#: Seconds in which a client that was refused can finish sending, to be ready to read why.
LINGER_SECONDS = 3.0

#: Bytes that are read at once.
READ = 64 * 1024

_ABORT = struct.pack("ii", 1, 0)  # struct linger: close() resets and drops what is unsent


class Channel:
    """One connection to the client at *addr*; *server* is one of :mod:`choreo_wsgi.serve.loop`'s.

    The loop asks it what to poll for, and tells it what happened.
    """

    connected = True
    #: The events that the loop polls for.
    polled = 0
    #: The connection is to be closed: now, or when all is sent.
    will_close = False
    close_when_flushed = False
    #: Whether the client may still be sending what was refused; see :meth:`handle_close`.
    lingers = False
    _discarding = False
    _fresh = True
    #: The request that is coming in.
    request: Parser | None = None
    #: The request that is being answered.
    task: Task | None = None
    #: When the client is cut off for not taking what is unsent.
    deadline = 0.0

    def __init__(self, server: Any, sock: socket.socket, addr: Any) -> None:
        self.server = server
        self.socket = sock
        self.addr = addr
        self.heard = self.began = time.monotonic()
        #: Those that came whole; the first is being answered.
        self.requests: list[Parser] = []
        #: What the system has not taken yet.
        self.unsent: list[memoryview] = []
        self._sending = threading.RLock()
        sock.setblocking(False)
        self.descriptor = sock.fileno()
        server.loop.add(self)

    # In the loop's thread

    def readable(self) -> bool:
        """Return whether more is to be read: not while as many requests wait as are allowed."""
        closing = self.will_close or self.close_when_flushed
        return not closing and len(self.requests) <= self.server.adj.channel_request_lookahead

    def on_readable(self) -> None:
        """Read what the client sent, or that it has gone."""
        try:
            data = self.socket.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.received(data)
        else:
            self.handle_close()

    def received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._discarding or self.will_close or self.close_when_flushed:
            return
        self.heard = time.monotonic()
        if self.request is None:
            self.began = self.heard
        self._fresh = False
        at = 0
        while at < len(data):
            request = self.request
            if request is None:
                request = self.request = Parser(self.server.adj, self._admitted)
            at += request.received(data[at:] if at else data)
            if request.expect_continue and request.headers_finished and not self.requests:
                self._send_continue(request)
            if request.completed:
                self.request = None
                if not request.empty:
                    self.requests.append(request)
                    if len(self.requests) == 1:
                        self._begin_next()

    def _begin_next(self) -> None:
        self.task = Task(self, self.requests[0])
        self.server.loop.begin(self.task)

    def _send_continue(self, request: Parser) -> None:
        """Tell the client to send the body of *request* (RFC 9110, 10.1.1)."""
        request.expect_continue = request.completed = False
        with contextlib.suppress(ClientDisconnected):
            self.transmit(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _admitted(self, request: Parser) -> bool:
        environ = {f"HTTP_{name}": value for name, value in request.headers.items()}
        environ["REQUEST_METHOD"] = request.command
        environ["PATH_INFO"] = request.path
        environ["SERVER_PROTOCOL"] = f"HTTP/{request.version}"
        environ["REMOTE_ADDR"] = self.addr[0]
        try:
            self.server.admit(environ)
        except ChoreoError:
            self.lingers = True
            return False
        return True

    @property
    def expected(self) -> bool:
        """Whether a request is under way, or the first is still to come."""
        return bool(self.requests or self.request is not None or self._fresh)

    def overdue(self, now: float) -> bool:
        """Return whether the client lets a request, or the next one, wait for too long."""
        if self.requests:
            return False
        if self._discarding:
            return now - self.began > LINGER_SECONDS
        if self.request is None and not self._fresh:
            return now - self.heard > IDLE_SECONDS
        if now - self.heard > REQUEST_SECONDS:
            return True
        body = self.request.body_bytes_received if self.request is not None else 0
        return now - self.began > REQUEST_SECONDS + body / SLOWEST_BODY

    def handle_close(self) -> None:
        """Close the connection; a worker that waits for the client wakes up.

        After a refusal the sending side is closed first and what still comes is thrown away:
        closing with bytes unread resets the connection, and the client would never see why
        (RFC 9112, 9.6).
        """
        if self.lingers and self.will_close and self.connected:
            self.lingers = self.will_close = False
            self._discarding = True
            self.began = time.monotonic()
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
            return
        if self.descriptor < 0:
            return  # closed already
        if self.requests:
            self._shut_down()
        with self._sending:
            self.connected = False
            self.unsent = []
            self.close()
        if self.task is not None:
            self.server.loop.step(self.task)  # its client has gone

    def on_writable(self) -> None:
        """Send what is unsent; when the client has taken it all, its answer goes on."""
        if self.unsent:
            self.flush()
            if self.unsent:
                return
            if self.task is not None:
                self.server.loop.step(self.task)
        if self.close_when_flushed and not self.unsent:
            self.close_when_flushed, self.will_close = False, True
        if self.will_close:
            self.handle_close()

    on_error = handle_close

    def close(self) -> None:
        """Close the socket."""
        if self.descriptor >= 0:
            self.server.loop.remove(self)
            self.descriptor = -1
            self.socket.close()

    def writable(self) -> bool:
        """Return whether there is something to send, or the connection is to be closed."""
        return bool(self.unsent) or self.will_close or self.close_when_flushed

    def answered(self, task: Task) -> None:
        """Take note that *task*'s answer is over: begin with the next request, or close."""
        self.task = None
        self.heard = time.monotonic()
        if task.close_on_finish or not self.connected:
            self.close_when_flushed = True
            for request in self.requests:
                request.close()
            self.requests = []
        else:
            self.requests.pop(0).close()
            waiting = self.request
            if self.requests:
                self._begin_next()
            elif waiting is not None and waiting.expect_continue and waiting.headers_finished:
                self._send_continue(waiting)
        self.server.loop.ask(self)

    # In any thread

    def transmit(self, *parts: bytes) -> None:
        """Send *parts*; what the system does not take now is kept as ``unsent``.

        Raises ClientDisconnected when the client has gone.
        """
        with self._sending:
            sent = 0 if self.unsent else self._send_some(parts)
            if sent < sum(map(len, parts)):
                self.keep(*_after(parts, sent))

    def keep(self, *parts: bytes | memoryview) -> None:
        """Send *parts* when the client takes them."""
        self.unsent += map(memoryview, parts)
        self.deadline = time.monotonic() + self.server.send_timeout
        self.server.loop.changed(self)

    def flush(self) -> None:
        """Send of what is unsent what the system takes now."""
        with self._sending:
            try:
                sent = self._send_some(self.unsent[:64])
            except ClientDisconnected:
                self.unsent = []
                return
            if sent:
                self.unsent = _after(self.unsent, sent)
                self.deadline = time.monotonic() + self.server.send_timeout

    def check_deadline(self) -> None:
        """Cut the client off if it took no byte for the server's ``send_timeout`` seconds.

        Raises ClientDisconnected then.
        """
        if time.monotonic() >= self.deadline:
            patience = self.server.send_timeout
            logger.info("a client took no byte for %g s and was cut off", patience)
            self.abort()
            raise ClientDisconnected

    def _send_some(self, parts: Any) -> int:
        """Return how many bytes of *parts* the system takes now; raises ClientDisconnected.

        The caller holds the lock.
        """
        if not self.connected:
            raise ClientDisconnected
        try:
            if len(parts) == 1:
                return int(self.socket.send(parts[0]))
            return int(self.socket.sendmsg(parts))
        except BlockingIOError:
            return 0
        except OSError:
            raise ClientDisconnected from None

    def abort(self) -> None:
        """Cut the client off: what it did not take is dropped."""
        with self._sending:
            self.unsent = []
            if self.connected:
                self.connected = False
                self.will_close = True
                with contextlib.suppress(OSError):
                    self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
                self._shut_down()

    def _shut_down(self) -> None:
        with contextlib.suppress(OSError):  # the client may have been quicker
            self.socket.shutdown(socket.SHUT_RDWR)


def _after(parts: Iterable[bytes | memoryview], sent: int) -> list[memoryview]:
    """Return what is left of *parts* after *sent* bytes."""
    rest = []
    for part in parts:
        if sent < len(part):
            rest.append(memoryview(part)[sent:])
        sent = max(0, sent - len(part))
    return rest
