"""A request and its answer: HTTP/1.1 over a non-blocking socket and its waiter.

An exchange owns one connection at a time: each attempt to send the request, and each resumption
of a stream, takes one from the pool or connects.  The body's last bytes return it to the pool.
"""

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
from ..transports.blocking import Waiter, dial, new_waiter

if TYPE_CHECKING:
    from .client import ChoreoAI

# A kept connection that breaks within these seconds was closed before the request arrived.
_STALE_SECONDS = 0.1
_MAX_ERROR = 1024 * 1024
_MAX_ANSWER = 256 * 1024 * 1024


class Exchange:
    """A request, with retries, and its answer: the head, and the body as it is received.

    The request is retried up to ``options.max_retries`` times while nothing of the answer was
    received: after connection errors, and after the statuses of :func:`choreoai.base.retry_delay`.
    An attempt on a kept connection that proves dead does not count.  A request that was sent and
    not answered in time is not retried: the server may be working on it.

    *parse* converts a whole body into the result; *reading* reads the body of a *stream* class.
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
        parse: Callable[[bytes], Any] = bytes,
        reading: Reading | None = None,
        *,
        stream: Any = None,
    ) -> None:
        self.parse = parse
        self.reading = reading
        self.stream = stream
        self.retries = 0
        self.client = client
        self.request = client._request(method, path, body, options, reading is not None)
        self.options = options
        self._cancelled = self._stale = False
        self._waiter: Waiter | None = None  # set while there is a connection

    @property
    def closed(self) -> bool:
        """Whether there is no connection (any more)."""
        return self._waiter is None

    def open(self) -> None:
        """Send the request, with retries, and read the head of a successful answer.

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
        # Set here only: a resumption must not replace them.
        self.status_code, self.headers = self._head.status, _dictionary(self._head)

    def fetch(self) -> bytes:
        """Send the request and return the answer's body; raises the errors of :meth:`open`."""
        self.open()
        return self.read()

    def resume(self, id: str, after: int) -> None:
        """Continue the resumable stream *id* with the event that follows number *after*.

        Raises the errors of :meth:`open`, without retries.
        """
        headers = {**self.options.headers, "Last-Event-ID": str(after)}
        options = self.options._replace(headers=headers)
        self._send(self.client._request("GET", path_of("/streams", id), None, options, True))

    def _send(self, request: PreparedRequest) -> None:
        """Send *request* once and read the head of its answer; raises APIError for a bad head."""
        pool = self.client._pool
        route = self._route = Route.find(pool.session, request.url or "")
        kept = pool.get(route)
        sock = kept or dial(route, self.options.timeout.connect)
        self._stale = False  # whether a kept connection was already dead
        self._rest = b""  # received but not yet parsed
        self._unpack: Callable[[bytes], bytes] | None = None
        self._started = time.monotonic()
        deadline = self.deadline(False)
        try:
            self._use(sock)
            data = memoryview(route.message(request))
            try:
                while data:
                    data = data[self._perform(partial(send_some, data), True, deadline) :]
            except APIConnectionError as error:
                if error._no_retry:
                    raise
                # A server that rejects the rest of the body may have answered already.
            self._head = head = self._read_head(request.method or "GET", deadline)
        except BaseException as error:
            self.close()
            if isinstance(error, FramingError):
                raise APIError(f"the server's answer cannot be read: {error}") from error
            broke = isinstance(error, APIConnectionError) and not error._no_retry
            soon = time.monotonic() - self._started < _STALE_SECONDS
            self._stale = kept is not None and broke and soon and not self._rest
            raise
        if not 200 <= head.status < 300:
            raise self.refusal_error()

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
        """Return the result of *attempt* on the socket, with the API's errors."""
        waiter = self._waiter
        if waiter is None:
            raise Cancelled("the connection was closed")
        if waiter.inherited:
            raise APIConnectionError("the connection belongs to the parent process, before fork()")
        try:
            result = waiter.perform(attempt, write, deadline)
        except Stalled:
            late = APITimeoutError(f"no new data was received in time: {self.options.timeout}")
            late._no_retry = True  # the server may be working on the request
            raise late from None
        except OSError as error:
            if error.errno is None:
                raise  # not of the system: a signal handler raised it
            if not self._cancelled:
                raise APIConnectionError(f"the connection broke: {error}") from error
        if self._cancelled:
            raise Cancelled("the connection was closed")
        return result

    def deadline(self, begun: bool) -> float:
        """Return the time by which the next bytes must be received; the first if not *begun*."""
        _, first, idle = self.options.timeout
        return time.monotonic() + (idle or inf) if begun else self._started + (first or inf)

    def receive(self, deadline: float) -> bytes:
        """Return the next bytes of the body, or ``b""`` when it is complete.

        With the last bytes the connection is returned to the pool; after an error it is closed.
        Raises APIConnectionError and APITimeoutError.
        """
        framing, body = self._head.framing, b""
        try:
            while not (body or framing.done):
                if framing.error is not None:  # found behind the last valid bytes
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
                raise APIConnectionError(f"the answer was cut: {error}") from error
            raise
        if framing.done:
            self._return_to_pool()
        return body

    def read(self, limit: int = 0) -> bytes:
        """Return the rest of the body; raises APIConnectionError for more than *limit* bytes."""
        body = bytearray()
        limit = limit or _MAX_ANSWER
        while block := self.receive(self.deadline(bool(body))):
            body += block
            if len(body) > limit:
                self.close()
                raise APIConnectionError(f"the answer is longer than {limit} bytes")
        return bytes(body)

    def refusal_error(self, start: bytes = b"") -> APIError:
        """Return the error for this answer; *start* is the part of its body already received."""
        content = start
        with suppress(APIConnectionError):  # the status alone is enough for an error
            content += self.read(_MAX_ERROR)
        body = decoded(content)
        if not start or (isinstance(body, dict) and body.get("error")):
            return status_error(self._head.status, _dictionary(self._head), content)
        kind = self._head.headers.get("content-type", "a document")
        return APIError(f"the server answered with {kind!r} instead of a stream", body=body)

    def pause(self, seconds: float) -> None:
        """Wait for *seconds*; raises Cancelled if the exchange is cancelled meanwhile."""
        silent, other = socket.socketpair()  # never readable, but cancel() can shut it down
        silent.setblocking(False)
        with other:
            try:
                self._use(silent)
                self._perform(receive_some, False, time.monotonic() + seconds)
            except APITimeoutError:
                pass
            finally:
                self.close()

    def _use(self, sock: socket.socket) -> None:
        self._waiter = new_waiter(sock)
        if self._cancelled:
            raise Cancelled("the connection was closed")

    def _return_to_pool(self) -> None:
        """Return the connection to the pool if it can be used again; else close it."""
        waiter, head = self._waiter, self._head
        kept = head.keep_alive and not head.framing.excess and not self._rest
        if waiter is not None and kept and waiter.claim.acquire(blocking=False):
            self._waiter = None
            waiter.release()
            self.client._pool.put(self._route, waiter.sock)
        self.close()

    def cancel(self) -> None:
        """Make the waiting task or thread raise Cancelled; while connecting, only afterwards."""
        self._cancelled = True
        waiter = self._waiter
        if waiter is not None and waiter.claim.acquire(blocking=False):
            waiter.shut_down()

    def close(self) -> None:
        """Close the connection if it was not returned to the pool.  Never blocks."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.drop()


def _dictionary(head: Head) -> Mapping[str, str]:
    names = (name for name, _ in head.headers.items())
    return CaseInsensitiveDict({n: ", ".join(head.headers.get_all(n) or ()) for n in names})
