"""One HTTP exchange over requests whose socket is known from the start.

requests and urllib3 connect, do TLS and proxies, send, and keep connections for the next
call.  What they do not offer is added here: an exchange can be cancelled from another
thread at any time (the socket is shut down, also before the response head is there), and
the body is read from the socket itself, so that a frame is delivered when it arrives and a
time limit or a signal handler's exception is never mistaken for something else.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.wait import wait_for_read, wait_for_write

from .framing import FramingError, framing_of
from .policy import Timeout

__all__ = ["Cancelled", "Cut", "Exchange", "Reply", "Stalled", "new_session"]

# Some tens of frames: their objects are used while they are still in the processor's cache.
_BLOCK = 16 * 1024
_current = threading.local()


# None of these is an OSError: urllib3 would take one for its own and wrap it.
class Cut(Exception):
    """The connection ended before the body did."""


class Stalled(Exception):
    """A time limit passed."""


class Cancelled(Exception):
    """The exchange was given up by its caller."""


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
                return self.sock.recv(_BLOCK)
            except (BlockingIOError, ssl.SSLWantReadError):
                pass
            except ssl.SSLWantWriteError:
                wait = wait_for_write
            except OSError as error:
                if error.errno is None:
                    raise  # not the system's: a signal handler raised it in here
                raise Cut(str(error)) from error
            left = None if deadline is None else deadline - time.monotonic()
            if (left is not None and left <= 0) or not wait(self.sock, left):
                raise Stalled

    def shutdown(self) -> None:
        """End both directions; a thread that waits in :meth:`receive` returns at once."""
        _shutdown(self.sock)

    def close(self) -> None:
        """Let go of the socket, which goes back to how it was."""
        with suppress(OSError):
            self.sock.settimeout(self._timeout)
        self._hold.close()


class _HeadFile(io.BufferedIOBase):
    """The lines of a response head; what follows the head stays in the wire."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def readline(self, size: int | None = -1) -> bytes:
        data = self._wire.rest
        self._wire.rest = b""
        limit = 1 << 16 if size is None or size < 0 else size
        while (end := data.find(b"\n") + 1) == 0 and len(data) < limit:
            more = self._wire.receive(self._wire.deadline)
            if not more:
                end = len(data)
                break
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
        exchange: Exchange | None = getattr(_current, "exchange", None)
        if exchange is not None:
            exchange.answering(wire, self)


class _Watched(HTTPConnection):
    """A connection that tells the exchange it serves."""

    response_class: type[http.client.HTTPResponse] = _Response

    def connect(self) -> None:
        _attach(self)
        # A proxy's answer to CONNECT is no response of this exchange.
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


def new_session(connections: int) -> requests.Session:
    """Return a session that keeps up to *connections* idle connections to a host."""
    session = requests.Session()
    for prefix in ("http://", "https://"):
        session.mount(prefix, _Adapter(pool_maxsize=connections, max_retries=0))
    return session


def _attach(connection: HTTPConnection) -> None:
    exchange: Exchange | None = getattr(_current, "exchange", None)
    if exchange is not None:
        exchange.attach(connection)


def _shutdown(sock: socket.socket) -> None:
    # The method of the plain socket: that of a TLS socket would take the TLS object away
    # from under a thread that is reading.  TLS within TLS is no socket, but has one.
    plain: socket.socket = getattr(sock, "socket", sock)
    with suppress(OSError):
        socket.socket.shutdown(plain, socket.SHUT_RDWR)


class Exchange:
    """One request and its response."""

    def __init__(self) -> None:
        self.cancelled = False
        self._lock = threading.Lock()
        self._connection: HTTPConnection | None = None
        self._wire: Wire | None = None
        self._head: http.client.HTTPResponse | None = None

    def send(
        self, session: requests.Session, request: requests.PreparedRequest, timeout: Timeout
    ) -> Reply:
        """Send *request*; return the reply when its head is there.

        Raises Stalled when that takes too long, Cut when the connection breaks instead,
        FramingError for a head that contradicts itself, Cancelled, and what requests raises.
        """
        url = request.url or ""
        settings: Any = session.merge_environment_settings(url, {}, True, None, None)
        limits: Any = (timeout.connect, timeout.first_byte)
        _current.exchange = self
        started = time.monotonic()
        try:
            # The adapter, not the session: no redirects (they would carry the key along),
            # no cookies, no .netrc.
            response = session.get_adapter(url).send(request, timeout=limits, **settings)
        except Exception:
            if self.cancelled:
                raise Cancelled from None
            raise
        finally:
            _current.exchange = None
        return self._reply(response, started)

    def _reply(self, response: requests.Response, started: float) -> Reply:
        wire, head = self._wire, self._head
        if wire is None or head is None:
            response.close()
            raise TypeError("the session's adapter is not that of this package")
        try:
            return Reply(self, response, wire, head, started)
        except FramingError:
            response.close()
            raise

    def attach(self, connection: HTTPConnection) -> None:
        """Remember *connection*; raise Cancelled if it comes too late."""
        with self._lock:
            self._connection = connection
            if self.cancelled:
                raise Cancelled

    def answering(self, wire: Wire, head: http.client.HTTPResponse) -> None:
        """Remember where the response is read from."""
        with self._lock:
            self._wire = wire
            self._head = head

    def cancel(self) -> None:
        """Give the exchange up, from any thread.

        Whoever waits for it gets Cancelled at once, except during name look-up and connect.
        """
        with self._lock:
            self.cancelled = True
            if self._wire is not None:
                self._wire.shutdown()
            elif self._connection is not None and self._connection.sock is not None:
                _shutdown(self._connection.sock)

    def detach(self) -> None:
        """Forget the connection, which another exchange may get next."""
        with self._lock:
            self._wire = self._connection = None


class Reply:
    """A response: its *status*, its *headers*, and its body as it comes.

    *started* is when its request was sent, on the clock ``time.monotonic``.
    """

    def __init__(
        self,
        exchange: Exchange,
        response: requests.Response,
        wire: Wire,
        head: http.client.HTTPResponse,
        started: float,
    ) -> None:
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.started = started
        self._framing = framing_of(self.status, response.headers)
        self._exchange = exchange
        self._response = response
        self._wire = wire
        self._head = head
        self._closed = False
        self._ended = False

    def receive(self, deadline: float | None) -> bytes:
        """Return the next bytes of the body, or ``b""`` when it is complete.

        Raises Cut, Stalled at *deadline*, and Cancelled.
        """
        while not (self._ended or self._framing.done):
            if self._closed:
                raise Cancelled
            try:
                data = self._wire.receive(deadline)
                body = self._framing.take(data)
            except (Cut, FramingError) as error:
                if self._exchange.cancelled:
                    raise Cancelled from None
                raise Cut(str(error)) from error
            if body:
                return body
            if not data:
                if self._exchange.cancelled:
                    raise Cancelled
                if not self._framing.ends_at_close():
                    raise Cut("the connection was closed in the middle of the answer")
                self._ended = True
        return b""

    def read(self, deadline: float | None, idle: float | None, limit: int) -> bytes:
        """Return the whole body.

        The first bytes are due at *deadline*, each further piece *idle* seconds after the
        last.  Raises what :meth:`receive` raises, and Cut when it is longer than *limit*.
        """
        body = bytearray()
        while block := self.receive(deadline):
            body += block
            if len(body) > limit:
                raise Cut(f"the answer is longer than {limit} bytes")
            deadline = None if idle is None else time.monotonic() + idle
        return bytes(body)

    def drain(self, patience: float) -> None:
        """Wait up to *patience* seconds for a body that has nothing more to say to end.

        A connection can be used again only if its last body was read to the end.
        """
        with suppress(Cut, Stalled, Cancelled):
            self.receive(time.monotonic() + patience)

    def close(self) -> None:
        """Give the connection back if the body is complete, close it otherwise."""
        if self._closed:
            return
        self._closed = True
        self._exchange.detach()
        framing = self._framing
        if framing.done and not framing.excess and not self._wire.rest:
            self._head.close()
            self._response.raw.release_conn()
        else:
            self._response.close()
