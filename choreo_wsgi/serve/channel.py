"""One connection to a client: requests are parsed as they arrive, answers are sent at once.

It replaces waitress's channel, which copies the application's blocks into buffers.  Here the
thread that has a block sends it.  Bytes that the system does not accept are kept in ``unsent``,
and the answer continues once they are sent: a slow client delays only its own stream, never a
worker or the carrier.

Requests are answered one after the other, in the order received: ``request`` is being received,
``requests`` are complete, and ``task`` answers the first of them.

Threads: the carrier's thread receives, flushes and closes; a worker may send.  ``_sending`` is
held to send and to clear ``connected``, which happens before the socket is closed: no byte is
sent to a descriptor whose number another connection has by then.  It is never held while waiting.
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
from ..streams.load import Load
from ..streams.poller import IN, OUT
from .parser import Parser
from .tasks import Disconnected, Task

logger = logging.getLogger(__name__)

#: Seconds within which a request's head must arrive, and grace for its body, which must arrive
#: at SLOWEST_BODY bytes per second: a slow client occupies one of a limited number of connections.
REQUEST_SECONDS = 20.0
SLOWEST_BODY = 1024

#: Seconds that a connection may be idle between requests: longer than the 60 s of nginx's and
#: AWS's pools, so that they close it, and do not send a request while we close it.
IDLE_SECONDS = 75.0

#: Seconds in which a refused client may finish sending, so that it reads the refusal.
LINGER_SECONDS = 3.0

#: Bytes per read; fewer of a chunked body, as waitress may take 2 us for each chunk of a byte.
READ, READ_CHUNKED = 64 * 1024, 8 * 1024

#: Sends the end of the connection in the packet of the last bytes, at half the cost of two.
_MORE = getattr(socket, "MSG_MORE", 0)

_ABORT = struct.pack("ii", 1, 0)  # struct linger: close() resets the connection, drops its bytes


class Channel(Load):
    """One connection to the client at *host*, accepted by *listener*."""

    def __init__(self, listener: Any, sock: socket.SocketType, host: str) -> None:
        super().__init__(steady=True)
        self.connected = True
        #: Whether it is to be closed when all is sent.
        self.closing = False
        #: Whether the client may still be sending a refused request; see :meth:`_close`.
        self.lingers = self._discarding = False
        self._is_new = True  # nothing was received yet
        #: The request that is being received.
        self.request: Parser | None = None
        #: The answer to the first of the complete requests.
        self.task: Task | None = None
        #: When the client is cut off because it does not accept the unsent bytes.
        self._deadline = 0.0
        self.listener = listener
        self.server = listener.server
        self._carrier = listener.server.carrier
        self.socket = sock
        self.host = host
        self.last_received = self.began = time.monotonic()
        #: The complete requests.
        self.requests: list[Parser] = []
        #: Received bytes that are parsed once fewer requests wait; parsed, they take more memory.
        self._unparsed = b""
        #: The bytes that the system has not accepted yet.
        self.unsent: list[memoryview] = []
        self._sending = threading.Lock()
        sock.setblocking(False)

    # In the carrier's thread

    @property
    def events(self) -> int:
        """The events to poll for: reading pauses while the allowed number of requests waits."""
        waiting = len(self.requests) > self.server.lookahead
        return (0 if waiting else IN) | (OUT if self.unsent else 0)

    def fileno(self) -> int | None:
        return self.socket.fileno()

    @property
    def due(self) -> float:
        """When the client is too slow to send a request, to send the next one, or to receive."""
        if self.unsent:
            return self._deadline
        if self.requests:
            return math.inf
        if self._discarding:
            return self.began + LINGER_SECONDS
        if self.request is None and not self._is_new:
            return self.last_received + IDLE_SECONDS
        body = self.request.body_bytes_received if self.request is not None else 0
        return REQUEST_SECONDS + min(self.last_received, self.began + body / SLOWEST_BODY)

    def step(self, timeout: float) -> None:
        """Flush the unsent bytes, continue their answer, and receive."""
        try:
            if self.unsent:
                self._flush()
                if self.task is not None:
                    self._carrier.step(self.task)
            if self.events & IN:
                self._read()
            if time.monotonic() >= self.due:
                self._time_out()
            if self.closing:
                self._close()
        except Exception:
            logger.exception("a connection failed")
            self.ended = True

    def _read(self) -> None:
        chunked = self.request is not None and self.request.chunked
        try:
            data = self.socket.recv(READ_CHUNKED if chunked else READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.last_received = time.monotonic()
            self._receive(data)
        else:
            self._disconnect()

    def _receive(self, data: bytes) -> None:
        """Parse *data*, and begin to answer the first request that is complete."""
        if self._discarding:
            return
        if self.request is None:
            self.began = self.last_received
        self._is_new = False
        at = 0
        while at < len(data):
            request = self.request
            if request is None:
                request = self.request = Parser(self.server.limits, self._admit)
            at += request.received(data[at:] if at else data)
            if request.expect_continue and request.headers_finished and not self.requests:
                self._send_continue(request)
            if request.completed:
                self.request = None
                if request.empty:  # a parser for each of thousands of blank lines would take long
                    data, at = data[at:].lstrip(b"\r\n"), 0
                    continue
                self.requests.append(request)
                if len(self.requests) == 1:
                    self._begin_next()
                if at < len(data) and len(self.requests) > self.server.lookahead:
                    self._unparsed = data[at:]
                    return

    def _begin_next(self) -> None:
        self.task = task = Task(self, self.requests[0])
        (self._carrier.add if task.blocking else self._carrier.schedule)(task)

    def _send_continue(self, request: Parser) -> None:
        """Request the body of *request* from the client (RFC 9110, 10.1.1)."""
        request.expect_continue = request.completed = False
        with contextlib.suppress(Disconnected):
            self.transmit(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _admit(self, request: Parser) -> bool:
        try:
            self.server.application.admit(request.environ(self))
        except ChoreoError:
            self.lingers = True
            return False
        return True

    def on_answered(self, task: Task) -> None:
        """Begin with the next request, or close, after *task*'s answer has ended."""
        self.task = None
        self.last_received = time.monotonic()
        if task.close_on_finish or not self.connected:
            self.closing = True
            self.requests = []
            self._close()
            self._carrier.update(self)
            return
        del self.requests[0]
        waiting = self.request
        if self.requests:
            self._begin_next()
        elif waiting is not None and waiting.expect_continue and waiting.headers_finished:
            self._send_continue(waiting)
        if self._unparsed:
            data, self._unparsed = self._unparsed, b""
            self._receive(data)
        self._carrier.update(self)

    def _flush(self) -> None:
        """Send as many of the unsent bytes as the system accepts now."""
        try:
            with self._sending:
                sent = self._send_some(self.unsent)
                if sent:
                    self.unsent = _without(self.unsent, sent)
                    self._deadline = time.monotonic() + self.server.settings.send_timeout
        except Disconnected:
            self._disconnect()

    def _time_out(self) -> None:
        if self.unsent:
            patience = self.server.settings.send_timeout
            logger.info("a client accepted no byte for %g s and was cut off", patience)
            self.abort()
        self.closing = True

    def _disconnect(self) -> None:
        """Drop the unsent bytes and send nothing more."""
        with self._sending:
            self.connected = False
            self.unsent = []
        self.closing = True

    def _close(self) -> None:
        """End the connection, now that all is sent, and any answer that is under way.

        After a refusal only the sending side is closed, and the bytes that still arrive are
        discarded: closing with unread bytes resets the connection, and the client might not
        receive the refusal (RFC 9112, 9.6).
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
            self._disconnect()
            self._carrier.step(self.task)

    def release(self) -> None:
        self._disconnect()
        self.socket.close()
        self.server.on_closed(self)

    # In any thread

    def transmit(self, *parts: bytes, closes: bool = False) -> None:
        """Send *parts*; bytes that the system does not accept now are kept as ``unsent``.

        With *closes* the connection is closed after them, as the client expects.  Raises
        Disconnected if the client has left.
        """
        with self._sending:
            sent = 0 if self.unsent else self._send_some(parts, _MORE if closes else 0)
            if sent < sum(map(len, parts)):
                self.buffer(*_without(parts, sent))

    def buffer(self, *parts: bytes | memoryview) -> None:
        """Append *parts* to the unsent bytes, to be sent when the system accepts them."""
        self.unsent += map(memoryview, parts)
        self._deadline = time.monotonic() + self.server.settings.send_timeout
        self._carrier.call(functools.partial(self._carrier.update, self))

    def _send_some(self, parts: Any, flags: int = 0) -> int:
        """Send *parts*, with the lock held; return how many bytes the system accepted.

        Raises Disconnected.
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
        """Reset the connection, and drop the bytes that the client did not accept."""
        with self._sending, contextlib.suppress(OSError):  # closed already
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        self._disconnect()
        self._carrier.call(functools.partial(self._carrier.step, self))


def _without(parts: Iterable[bytes | memoryview], sent: int) -> list[memoryview]:
    """Return *parts* without the first *sent* bytes."""
    rest = []
    for part in parts:
        if sent < len(part):
            rest.append(memoryview(part)[sent:])
        sent = max(0, sent - len(part))
    return rest
