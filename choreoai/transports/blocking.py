"""Requests sent by requests, and answers that can be given up from another thread at any time.

The socket is known from the start, also before the response head is there; shutting it down
wakes whoever waits for it.  Closing the response would not: it waits for the reader.
"""

from __future__ import annotations

import http.client
import os
import re
import threading
import time
from email.message import Message
from typing import Any

import requests
from urllib3.connection import HTTPConnection

from choreo_wsgi.upstream.framing import FramingError

from ..policy import Timeout
from .background import run
from .base import Body, Cancelled, Cut, Network, Unreachable
from .connections import Wire, new_session, shutdown, watched_by

_IDLE_CONNECTIONS = 100

# These say what is wrong with the configuration: another try finds it the same.
_HOPELESS = (
    requests.exceptions.SSLError,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidHeader,
)
# So does a proxy that refuses to make a tunnel; urllib3 tells its status in words alone.
_REFUSED_TUNNEL = re.compile(r"Tunnel connection failed: 4\d\d\b")


class Transport:
    """Sends requests; threads may share it, and so may processes after a fork."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._pid = os.getpid()
        self._session = new_session(network, _IDLE_CONNECTIONS)

    def send(self, request: requests.PreparedRequest, timeout: Timeout, cancel: Cancel) -> Answer:
        """Send *request*; return the answer when its head is there.

        Raises Unreachable, Stalled when the answer takes too long, Cut when the connection
        breaks instead, FramingError for a head that contradicts itself, and Cancelled.
        """
        if self._pid != os.getpid():
            # A child of fork(): its parent reads the connections that are idle here.
            self._session = new_session(self._network, _IDLE_CONNECTIONS)
            self._pid = os.getpid()
        session = self._session
        return run(lambda: _send(session, request, timeout, cancel), cancel.cancel)

    def close(self) -> None:
        """Close the idle connections."""
        if self._pid == os.getpid():
            self._session.close()


def _send(
    session: requests.Session,
    request: requests.PreparedRequest,
    timeout: Timeout,
    cancel: Cancel,
) -> Answer:
    url = request.url or ""
    settings: Any = session.merge_environment_settings(url, {}, True, None, None)
    limits: Any = (timeout.connect, timeout.first_byte)
    started = time.monotonic()
    cancel.check()
    try:
        with watched_by(cancel):
            # The adapter, not the session: no redirects (they would carry the key
            # along), no cookies, no .netrc.
            response = session.get_adapter(url).send(request, timeout=limits, **settings)
    except requests.exceptions.RequestException as error:
        cancel.check()
        raise _unreachable(error) from error
    except Exception:
        cancel.check()
        raise
    return cancel.answer(request.method or "GET", response, started)


def _unreachable(error: requests.exceptions.RequestException) -> Unreachable:
    """Return our error for one of requests', with its cause in few words."""
    root: BaseException = error
    while (deeper := root.__cause__ or root.__context__) is not None:
        root = deeper
    return Unreachable(
        str(root),
        timed_out=isinstance(error, requests.exceptions.Timeout),
        hopeless=isinstance(error, _HOPELESS) or bool(_REFUSED_TUNNEL.search(str(root))),
    )


class Cancel:
    """Gives up what is sent with it, from any thread, at any time."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._connection: HTTPConnection | None = None
        self._wire: Wire | None = None
        self._head: http.client.HTTPResponse | None = None

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Give up: who waits gets Cancelled at once, except during name look-up and connect."""
        self._cancelled.set()
        if self._pid != os.getpid():
            return  # the connection is the parent's
        with self._lock:
            if self._wire is not None:
                shutdown(self._wire.sock)
            elif self._connection is not None and self._connection.sock is not None:
                shutdown(self._connection.sock)

    def check(self) -> None:
        """Raise Cancelled if that is what happened."""
        if self._cancelled.is_set():
            raise Cancelled from None

    def pause(self, seconds: float) -> None:
        """Wait; raises Cancelled."""
        if self._cancelled.wait(seconds):
            raise Cancelled

    def attach(self, connection: HTTPConnection) -> None:
        """Remember *connection*; raise Cancelled if it comes too late."""
        with self._lock:
            self._connection = connection
            self.check()

    def answering(self, wire: Wire, head: http.client.HTTPResponse) -> None:
        """Remember where the response is read from."""
        with self._lock:
            self._wire = wire
            self._head = head

    def answer(self, method: str, response: requests.Response, started: float) -> Answer:
        """Return *response* as an Answer."""
        wire, head = self._wire, self._head
        if wire is None or head is None:
            response.close()
            raise TypeError("the session's adapter is not that of this package")
        try:
            return Answer(self, method, response, wire, head, started)
        except FramingError:
            response.close()
            raise

    def detach(self) -> None:
        """Forget the connection, which another request may get next."""
        with self._lock:
            self._wire = self._connection = self._head = None


class Answer:
    """A response: its *status*, its *headers*, and its body as it comes.

    *started* is when its request was sent, on the clock ``time.monotonic``.
    """

    def __init__(
        self,
        cancel: Cancel,
        method: str,
        response: requests.Response,
        wire: Wire,
        head: http.client.HTTPResponse,
        started: float,
    ) -> None:
        self.status: int = response.status_code
        self.headers: Message = head.headers
        self.started = started
        self.body = Body(method, self.status, self.headers)
        self._cancel = cancel
        self._response = response
        self._wire = wire
        self._head = head
        self._closed = False
        self._pid = os.getpid()

    def receive(self, deadline: float | None) -> bytes:
        """Return the next bytes of the body, or ``b""`` when it is complete.

        Raises Cut, Stalled at *deadline*, and Cancelled.
        """
        if self._pid != os.getpid():
            raise Cut("the connection belongs to the process that this one was forked from")
        while not self.body.done:
            if self._closed:
                raise Cancelled
            try:
                data = self._wire.receive(deadline)
                if not data:
                    self._cancel.check()
                if body := self.body.feed(data):
                    return body
            except Cut:
                self._cancel.check()
                raise
        return b""

    def close(self) -> None:
        """Give the connection back if the body is complete, close it otherwise."""
        if self._closed:
            return
        if self._pid != os.getpid():
            self.drop()
            return
        self._closed = True
        self._cancel.detach()
        if self.body.reusable and not self._wire.rest:
            self._head.close()
            self._response.raw.release_conn()
        else:
            self._response.close()

    def drop(self) -> None:
        """Close the connection, for a finaliser: nothing is asked that could wait.

        It may run while its own thread is in the middle of the pool, whose lock it holds.
        """
        if not self._closed:
            self._closed = True
            self._wire.drop(shared=self._pid != os.getpid())
