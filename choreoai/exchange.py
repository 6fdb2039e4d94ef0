"""One request and its response, which can be cancelled from another thread at any time.

The socket is known from the start, also before the response head is there; shutting it down
wakes whoever waits for it.  Closing the response would not: it waits for the reader.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import requests
from urllib3.connection import HTTPConnection

from choreo_wsgi.upstream.framing import FramingError, framing_of

from .policy import Timeout
from .wire import Cut, Stalled, Wire, shutdown, watched_by

__all__ = ["Cancelled", "Exchange", "Reply"]


class Cancelled(Exception):
    """The exchange was given up by its caller."""


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
        started = time.monotonic()
        try:
            with watched_by(self):
                # The adapter, not the session: no redirects (they would carry the key
                # along), no cookies, no .netrc.
                response = session.get_adapter(url).send(request, timeout=limits, **settings)
        except Exception:
            if self.cancelled:
                raise Cancelled from None
            raise
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
                shutdown(self._wire.sock)
            elif self._connection is not None and self._connection.sock is not None:
                shutdown(self._connection.sock)

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
        self._framing = framing_of("GET", self.status, head.headers)
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
        while not self._framing.done:
            if self._closed:
                raise Cancelled
            try:
                data = self._wire.receive(deadline)
                body = self._framing.feed(data)
                if body:
                    return body
                if self._framing.error is not None:
                    raise self._framing.error
                if not data:
                    self._ended = True
                    if self._exchange.cancelled:
                        raise Cancelled
                    self._framing.end()
            except (Cut, FramingError) as error:
                if self._exchange.cancelled:
                    raise Cancelled from None
                raise Cut(str(error)) from error
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
        if framing.done and not (self._ended or framing.excess or self._wire.rest):
            self._head.close()
            self._response.raw.release_conn()
        else:
            self._response.close()
