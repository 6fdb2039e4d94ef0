"""A request and its answer: HTTP/1.1 over a socket and who waits for it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from requests import PreparedRequest
from requests.structures import CaseInsensitiveDict

from choreo_wsgi.upstream.coding import Decompressor, is_compressed
from choreo_wsgi.upstream.framing import FramingError
from choreo_wsgi.upstream.head import Head, head_end, parse_head

from ..base import Options, path_of, retry_delay
from ..errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    decoded,
    status_error,
)
from ..reading import Reading
from ..transports.base import Attempt, Cancelled, Route, Stalled, T, receive_some, send_some
from ..transports.blocking import Waiter, dial, waiter

if TYPE_CHECKING:
    from .client import ChoreoAI

# Seconds within which a kept connection shows that it had been closed before the request came.
_AT_ONCE = 0.1
_MOST_OF_AN_ERROR = 1024 * 1024
_MOST_OF_AN_ANSWER = 256 * 1024 * 1024


class Exchange:
    """A *request*, sent until an answer comes, and that answer: its head, its body as it comes.

    It is tried up to ``options.max_retries`` times more as long as nothing of the answer came:
    after connection errors, and after the statuses of :func:`choreoai.base.retry_delay`.  It is no
    try if a kept connection proves dead.
    A request that was sent and not answered in time is not repeated: it may be at work.

    *meaning* makes of a whole body what it says; a stream is read by *reading*, and is
    a *stream*.
    """

    status_code: int
    headers: Mapping[str, str]
    _head: Head
    _route: Route

    def __init__(
        self,
        client: ChoreoAI,
        method: str,
        path: str,
        options: Options,
        body: Any = None,
        meaning: Callable[[bytes], Any] = bytes,
        reading: Reading | None = None,
        *,
        stream: Any = None,
    ) -> None:
        self.meaning = meaning
        self.reading = reading
        self.stream = stream
        self.retries = 0
        self.client = client
        self.request = client._request(method, path, body, options, reading is not None)
        self.options = options
        self._cancelled = self._stale = False
        self._waits: Waiter | None = None  # there as long as there is a connection

    @property
    def closed(self) -> bool:
        """Whether there is no connection, or none any more."""
        return self._waits is None

    def open(self) -> None:
        """Send the request until the head of a good answer is there.

        Raises APIStatusError, APIConnectionError and APITimeoutError.
        """
        while True:
            try:
                self._send(self.request)
                break
            except (APIStatusError, APIConnectionError) as error:
                error.request = self.request
                if self._stale:
                    continue
                delay = retry_delay(error, self.retries, time.time())
                if delay is None or self.retries >= self.options.max_retries:
                    raise
            self.retries += 1
            self.pause(delay)
        # Not those of an answer that goes on with this one.
        self.status_code, self.headers = self._head.status, _dictionary(self._head)

    def fetch(self) -> bytes:
        """Send the request and return the body of the answer.  Raises what :meth:`open` does."""
        self.open()
        return self.read()

    def resume(self, id: str, after: int) -> None:
        """Go on with what follows event *after* of the resumable stream *id*.

        Raises what :meth:`open` does, after one try.
        """
        headers = {**self.options.headers, "Last-Event-ID": str(after)}
        options = self.options._replace(headers=headers)
        self._send(self.client._request("GET", path_of("/streams", id), None, options, True))

    def _send(self, request: PreparedRequest) -> None:
        """Send *request* once, and read the head of its answer; APIError if it has no form."""
        pool = self.client._pool
        route = self._route = Route.find(pool.session, request.url or "")
        kept = pool.take(route)
        sock = kept or dial(route, self.options.timeout.connect)
        self._stale = False  # whether a kept connection was dead already
        self._rest = b""  # received but not yet asked for
        self._unpack: Callable[[bytes], bytes] | None = None
        self._started = time.monotonic()
        deadline = self.deadline(False)
        try:
            self._hold(sock)
            data = memoryview(route.message(request))
            try:
                while data:
                    data = data[self._perform(partial(send_some, data), True, deadline) :]
            except APIConnectionError as error:
                if error._hopeless:
                    raise
                # A server that does not want the rest may have answered already.
            self._head = head = self._read_head(request.method or "GET", deadline)
        except BaseException as error:
            self.close()
            if isinstance(error, FramingError):
                raise APIError(f"the server's answer cannot be read: {error}") from error
            broke = isinstance(error, APIConnectionError) and not error._hopeless
            soon = time.monotonic() - self._started < _AT_ONCE
            self._stale = kept is not None and broke and soon and not self._rest
            raise
        if not 200 <= head.status < 300:
            raise self.refusal()

    def _read_head(self, method: str, deadline: float) -> Head:
        while True:
            while (end := head_end(self._rest)) < 0:
                if not (more := self._perform(receive_some, False, deadline)):
                    raise APIConnectionError("the connection was closed inside the answer's head")
                self._rest += more
            data, self._rest = self._rest[:end], self._rest[end:]
            head = parse_head(data, method)
            if head.status >= 200 or head.status == 101:  # 103 is Early Hints
                return head

    def _perform(self, attempt: Attempt[T], write: bool, deadline: float) -> T:
        waits = self._waits
        if waits is None:
            raise Cancelled("the connection was closed")
        if waits.inherited:
            message = "the connection belongs to the process that this one was forked from"
            raise APIConnectionError(message)
        try:
            done = waits.perform(attempt, write, deadline)
        except Stalled:
            late = APITimeoutError(f"nothing new came in time: {self.options.timeout}")
            late._hopeless = True  # the request may be at work
            raise late from None
        except OSError as error:
            if error.errno is None:
                raise  # not the system's: a signal handler raised it in here
            if not self._cancelled:
                raise APIConnectionError(f"the connection broke: {error}") from error
        if self._cancelled:
            raise Cancelled("the connection was closed")
        return done

    def deadline(self, begun: bool) -> float:
        """Return until when the next piece of the answer must come; the first if not *begun*."""
        _, first, idle = self.options.timeout
        return time.monotonic() + (idle or inf) if begun else self._started + (first or inf)

    def receive(self, deadline: float) -> bytes:
        """Return the next bytes of the body, or ``b""`` when it is complete.

        The connection is given back with the last bytes, and closed after an error.  Raises
        APIConnectionError and APITimeoutError.
        """
        framing, body = self._head.framing, b""
        try:
            while not (body or framing.done):
                if framing.error is not None:  # it came with the last bytes that were good
                    raise framing.error
                data, self._rest = self._rest, b""
                data = data or self._perform(receive_some, False, deadline)
                body = framing.feed(data)
                if not data:
                    framing.end()
                if body and self._unpack is None:
                    coding = self._head.headers.get("content-encoding").lower()
                    self._unpack = (
                        Decompressor().decompress if is_compressed(coding, body) else bytes
                    )
                if body and self._unpack is not None:
                    body = self._unpack(body)
        except BaseException as error:
            self.close()
            if isinstance(error, FramingError):
                raise APIConnectionError(f"the answer broke off: {error}") from error
            raise
        if framing.done:
            self._keep()
        return body

    def read(self, most: int = 0) -> bytes:
        """Return the body; raises APIConnectionError for more than *most*, or too many, bytes."""
        body = bytearray()
        most = most or _MOST_OF_AN_ANSWER
        while block := self.receive(self.deadline(bool(body))):
            body += block
            if len(body) > most:
                self.close()
                raise APIConnectionError(f"the answer is longer than {most} bytes")
        return bytes(body)

    def refusal(self, start: bytes = b"") -> APIError:
        """Return the error for an answer whose body began with *start*."""
        content = start
        with suppress(APIConnectionError):  # the status alone says enough
            content += self.read(_MOST_OF_AN_ERROR)
        body = decoded(content)
        if not start or (isinstance(body, dict) and body.get("error")):
            return status_error(self._head.status, _dictionary(self._head), content)
        kind = self._head.headers.get("content-type", "a document")
        return APIError(f"the server answered with {kind!r} where a stream was asked", body=body)

    def pause(self, seconds: float) -> None:
        """Wait, for a socket on which nothing comes before it is over; raises Cancelled."""
        silent, other = socket.socketpair()
        silent.setblocking(False)
        with other:
            try:
                self._hold(silent)
                self._perform(receive_some, False, time.monotonic() + seconds)
            except APITimeoutError:
                pass
            finally:
                self.close()

    def _hold(self, sock: socket.socket) -> None:
        self._waits = waiter(sock)
        if self._cancelled:
            raise Cancelled("the connection was closed")

    def _keep(self) -> None:
        """Give the connection back for other requests, if it can be used for more."""
        waits, head = self._waits, self._head
        kept = head.keep_alive and not head.framing.excess and not self._rest
        if waits is not None and kept and waits.claim.acquire(blocking=False):
            self._waits = None
            waits.release()
            self.client._pool.keep(self._route, waits.sock)
        self.close()

    def cancel(self) -> None:
        """Give up: who waits gets Cancelled at once, except while a connection is made."""
        self._cancelled = True
        waits = self._waits
        if waits is not None and waits.claim.acquire(blocking=False):
            waits.shut_down()

    def close(self) -> None:
        """Close the connection, if it was not given back; nothing is asked that could wait."""
        waits, self._waits = self._waits, None
        if waits is not None:
            waits.drop()


def _dictionary(head: Head) -> Mapping[str, str]:
    names = (name for name, _ in head.headers.items())
    return CaseInsensitiveDict({n: ", ".join(head.headers.get_all(n) or ()) for n in names})
