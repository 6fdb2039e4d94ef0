"""One connection: what is read is checked, what is written leaves at once.

It stands in for waitress's channel, which copies what an application yields into buffers.  Here
each block is handed to the system as it is, by whoever made it.  What the system does not take
at once stays here, and nothing more is asked of that answer until the client has taken it: a
slow reader holds back its own stream, and neither a thread nor the loop.

Who may touch the socket: the carrier's thread reads, flushes and closes it, a worker may send.
Closing and sending happen under a lock, so no byte goes to a descriptor used anew; the lock is
never held while waiting.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import socket
import struct
import threading
import time
from collections.abc import Iterable
from typing import Any

from ..errors import ChoreoError
from ..streams.carrier import Load
from ..streams.poller import IN, OUT
from .parser import Parser
from .tasks import Disconnected, Task

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

#: The end of the connection leaves in the packet of the last bytes: half of what two packets cost.
_MORE = getattr(socket, "MSG_MORE", 0)

_ABORT = struct.pack("ii", 1, 0)  # struct linger: close() resets and drops what is unsent


class Channel(Load):
    """One connection to the client at *host*, accepted by *listener*."""

    def __init__(self, listener: Any, sock: socket.socket, host: str) -> None:
        super().__init__(steady=True)
        self.connected = True
        #: Whether it is to be closed when all is sent.
        self.closing = False
        #: Whether the client may still be sending what was refused; see :meth:`_close`.
        self.lingers = self._discarding = False
        self._fresh = True
        #: The request that is coming in.
        self.request: Parser | None = None
        #: The request that is being answered.
        self.task: Task | None = None
        #: When the client is cut off for not taking what is unsent.
        self._deadline = 0.0
        self.listener = listener
        self.server = listener.server
        self._carrier = listener.server.carrier
        self.socket = sock
        self.host = host
        self.heard = self.began = time.monotonic()
        #: Those that came whole; the first is being answered.
        self.requests: list[Parser] = []
        #: What the system has not taken yet.
        self.unsent: list[memoryview] = []
        self._sending = threading.Lock()
        sock.setblocking(False)

    # In the carrier's thread

    @property
    def events(self) -> int:
        """What to poll for: nothing to read while as many requests wait as are allowed."""
        waiting = len(self.requests) > self.server.lookahead
        return (0 if self.closing or waiting else IN) | (OUT if self.unsent else 0)

    def fileno(self) -> int | None:
        """Return the descriptor to poll, if there are events to poll for."""
        return self.socket.fileno()

    @property
    def due(self) -> float:
        """When the client has let a request, or the next one, or our answer wait for too long."""
        if self.unsent:
            return self._deadline
        if self.requests:
            return math.inf
        if self._discarding:
            return self.began + LINGER_SECONDS
        if self.request is None and not self._fresh:
            return self.heard + IDLE_SECONDS
        body = self.request.body_bytes_received if self.request is not None else 0
        return REQUEST_SECONDS + min(self.heard, self.began + body / SLOWEST_BODY)

    def step(self, patience: float) -> None:
        """Send what the client takes, and read what it sent."""
        try:
            if self.unsent:
                self._flush()
                if self.task is not None:
                    self._carrier.step(self.task)
            if self.events & IN:
                self._read()
            if time.monotonic() >= self.due:
                self._time_out()
            if self.closing and not self.unsent:
                self._close()
        except Exception:
            logger.exception("a connection failed")
            self.ended = True

    def _read(self) -> None:
        try:
            data = self.socket.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.heard = time.monotonic()
            self._receive(data)
        else:
            self._lose()

    def _receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._discarding:
            return
        if self.request is None:
            self.began = self.heard
        self._fresh = False
        at = 0
        while at < len(data):
            request = self.request
            if request is None:
                request = self.request = Parser(self.server.limits, self._admitted)
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
        self.task = task = Task(self, self.requests[0])
        (self._carrier.add if task.blocking else self._carrier.schedule)(task)

    def _send_continue(self, request: Parser) -> None:
        """Tell the client to send the body of *request* (RFC 9110, 10.1.1)."""
        request.expect_continue = request.completed = False
        with contextlib.suppress(Disconnected):
            self.transmit(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _admitted(self, request: Parser) -> bool:
        try:
            self.server.application.admit(request.environ(self))
        except ChoreoError:
            self.lingers = True
            return False
        return True

    @property
    def expected(self) -> bool:
        """Whether a request is under way, or the first is still to come."""
        return bool(self.requests or self.request is not None or self._fresh)

    def answered(self, task: Task) -> None:
        """Take note that *task*'s answer is over: begin with the next request, or close."""
        self.task = None
        self.heard = time.monotonic()
        if task.close_on_finish or not self.connected:
            self.closing = True
            for request in self.requests:
                request.close()
            self.requests = []
            if not self.unsent:
                self._close()
            self._carrier.update(self)
            return
        del self.requests[0]
        waiting = self.request
        if self.requests:
            self._begin_next()
        elif waiting is not None and waiting.expect_continue and waiting.headers_finished:
            self._send_continue(waiting)
        self._carrier.update(self)

    def _flush(self) -> None:
        """Send of what is unsent what the system takes now."""
        with self._sending, contextlib.suppress(Disconnected):
            sent = self._send_some(self.unsent[:64])
            if sent:
                self.unsent = _after(self.unsent, sent)
                self._deadline = time.monotonic() + self.server.settings.send_timeout
            return
        self._lose()

    def _time_out(self) -> None:
        if self.unsent:
            patience = self.server.settings.send_timeout
            logger.info("a client took no byte for %g s and was cut off", patience)
            self.abort()
        self.closing = True

    def _lose(self) -> None:
        """Send nothing more: the client has gone, or shall go."""
        with self._sending:
            self.connected = False
            self.unsent = []
        self.closing = True

    def _close(self) -> None:
        """Close the connection when all is sent; its answer learns that the client has gone.

        After a refusal the sending side is closed first and what still comes is thrown away:
        closing with bytes unread resets the connection, and the client would never see why
        (RFC 9112, 9.6).
        """
        if self.lingers and self.connected:
            self.lingers = self.closing = False
            self._discarding = True
            self.began = time.monotonic()
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
            return
        self.ended = True
        if self.task is not None:
            self._lose()
            self._carrier.step(self.task)

    def release(self) -> None:
        """Close the socket."""
        self._lose()
        self.socket.close()
        self.server.left(self)

    # In any thread

    def transmit(self, *parts: bytes, parting: bool = False) -> None:
        """Send *parts*; what the system does not take now is kept as ``unsent``.

        They are *parting* if the connection is closed next, as the client expects.  Raises
        Disconnected when the client has gone.
        """
        with self._sending:
            sent = 0 if self.unsent else self._send_some(parts, _MORE if parting else 0)
            if sent < sum(map(len, parts)):
                self.keep(*_after(parts, sent))

    def keep(self, *parts: bytes | memoryview) -> None:
        """Send *parts* when the client takes them."""
        self.unsent += map(memoryview, parts)
        self._deadline = time.monotonic() + self.server.settings.send_timeout
        self._carrier.call(functools.partial(self._carrier.update, self))

    def _send_some(self, parts: Any, flags: int = 0) -> int:
        """Return how many bytes of *parts* the system takes now; raises Disconnected.

        The caller holds the lock.
        """
        if not self.connected:
            raise Disconnected
        try:
            if len(parts) == 1:
                return int(self.socket.send(parts[0], flags))
            return int(self.socket.sendmsg(parts, (), flags))
        except BlockingIOError:
            return 0
        except OSError:
            raise Disconnected from None

    def abort(self) -> None:
        """Cut the client off: what it did not take is dropped."""
        with self._sending, contextlib.suppress(OSError):  # closed already
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        self._lose()
        self._carrier.call(functools.partial(self._carrier.step, self))


def _after(parts: Iterable[bytes | memoryview], sent: int) -> list[memoryview]:
    """Return what is left of *parts* after *sent* bytes."""
    rest = []
    for part in parts:
        if sent < len(part):
            rest.append(memoryview(part)[sent:])
        sent = max(0, sent - len(part))
    return rest
