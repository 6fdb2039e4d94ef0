"""One HTTP request and its answer, read piece by piece with a timeout.

Phases: until the answer's head is complete, the exchange runs *steps* (:data:`.request.Steps`), a
generator that connects, sends the request, reads the head, and yields when it must wait.
:meth:`Exchange._advance` resumes it.  From then on :meth:`Exchange._read` returns the body.

Threads: one thread at a time receives, with ``_busy`` held; any thread may close.  The number of
a closed descriptor may at once be another connection's, which a thread inside receive() would
then read.  So close() only shuts the socket down while a thread receives; that thread wakes up
and closes it.  ``_ending`` is held to abort the connection or to mark it as free for the pool, so
that a connection is never aborted once another exchange uses it.

Retries: a pooled connection may break because the provider closed it while it was idle.  Then the
request is sent once more, on a new connection, if the provider cannot have begun to work on it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..errors import ProviderTimeout, ProviderUnavailable, UpstreamInvalid, UpstreamTruncated
from .address import Address
from .connection import POLLIN, POLLOUT, Connection
from .framing import Chunked, Framing, FramingError
from .head import Head, Headers, head_end, parse_head
from .request import Overdue, Piece, Steps

if TYPE_CHECKING:
    from .pool import Client

# Seconds within which a closed connection is noticed, besides two round trips.
_CLOSE_NOTICE = 0.1
_NO_HEADERS = Headers()
_UNREADABLE = "the provider's answer cannot be read"

#: Seconds between two checks whether a socket is writable, without an epoll to poll.
PAUSE = 0.01


class Exchange:
    """A request and its answer; ``status`` is None until the answer's head is received."""

    def __init__(self, client: Client, address: Address, method: str, *request: Piece) -> None:
        self.status: int | None = None
        self.headers = _NO_HEADERS
        #: Whether the body was returned to its end.
        self.ended = False
        self._client = client
        self._address = address
        self._method = method
        self._request = request
        self._connection: Connection | None = None
        self._framing: Framing | None = None
        self._head: Head | None = None
        self._head_bytes = b""  # received bytes of an incomplete head
        self._head_start = 0  # where the final head begins in them, behind the interim ones
        #: Received bytes of the body, or the connection's failure, that are to be read next.
        self.unread: bytes | OSError = b""
        self._steps: Steps | None = self._steps_to_head(new=False)
        self._waiting: tuple[int, float] | None = None  # the events and the deadline of the steps
        #: When the head or a piece of the body was received last.
        self.last_received = 0.0
        self._next_check = 0.0  # when to check whether the socket is writable
        self._read_timeout = client.timeouts.first_byte
        self._sent = self._closed = False
        self._sent_at = 0.0
        self._answered = False  # a byte of the answer was received
        self._busy = threading.Lock()
        self._ending = threading.Lock()

    def receive(self, timeout: float) -> bytes:
        """Return the body's bytes received within *timeout* seconds, without their framing.

        ``b""`` on timeout and at the end; ``receive(0)`` never blocks.  Bytes received before a
        failure are returned first.  Raises ProviderUnavailable (no connection, or closed by us),
        ProviderTimeout, UpstreamTruncated (the answer is incomplete), UpstreamInvalid (not HTTP).
        """
        with self._busy:
            try:
                if self._steps is not None:
                    until = time.monotonic() + timeout
                    if not self._advance(self._steps, until):
                        return b""
                    timeout = until - time.monotonic()
                return self._read(timeout)
            except BaseException:
                self._closed = True
                raise
            finally:
                if self._closed and not self.ended:
                    self._release()

    def chunks(self) -> tuple[Callable[[], bytes | None], Mapping[bytes, int]] | None:
        """Return how to read chunks without :meth:`receive`, None unless the next byte begins one.

        This is the function of ``Connection.receiver`` and the sizes by size line.  Only the
        thread that receives may use them; bytes that it cannot use it must set as ``unread``.
        """
        framing = self._framing
        if self.ended or self.unread or not (isinstance(framing, Chunked) and framing.at_chunk):
            return None
        assert self._connection is not None
        return self._connection.receiver(), framing.sizes

    def fileno(self) -> int | None:
        """Return the file descriptor to poll for reading, or None if there is none yet."""
        connection = self._connection
        if connection is None or self.ended:  # it may belong to another exchange by now
            return None
        return connection.fileno(self.events)

    @property
    def events(self) -> int:
        """The events to wait for: ``select.POLLIN``, ``select.POLLOUT``, or both."""
        if self._steps is None:
            return POLLIN
        return self._waiting[0] if self._waiting is not None else POLLOUT

    @property
    def due(self) -> float | None:
        """When to receive even without an event; None while a name must be looked up."""
        # An end or a failure that is known already causes no further event.
        connection, framing = self._connection, self._framing
        if (
            self.ended
            or self._closed
            or (framing is not None and framing.error is not None)
            or (connection is not None and connection.tls is not None and connection.tls.ended)
        ):
            return 0.0
        if self._steps is None:
            return self.last_received + self._read_timeout
        if self._waiting is None:
            return 0.0
        events, deadline = self._waiting
        if not events:
            return None
        polled = events == POLLIN or self.fileno() is not None
        return deadline if polled else min(deadline, self._next_check)

    def close(self) -> None:
        """End the exchange and its connection, in any phase, from any thread, repeatedly."""
        with self._ending:
            self._closed = True
            if self.ended:
                return
            if self._connection is not None:
                self._connection.abort()
        # Otherwise the thread that is inside receive() closes the connection.
        if self._busy.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._busy.release()

    def _release(self) -> None:
        """Close the connection and the steps: a cycle, as their frame refers to this exchange."""
        if self._steps is not None:
            self._steps.close()
        if self._connection is not None:
            self._connection.close()

    def finish(self) -> None:
        """End the exchange early; keep its connection if only the body's end is missing."""
        with self._busy:
            if self.ended or self._steps is not None:
                return
            self._end()

    def _advance(self, steps: Steps, until: float) -> bool:
        """Run the *steps* up to the time *until*; return whether the head is complete."""
        while True:
            self._check_open()
            if self._waiting is not None:
                events, deadline = self._waiting
                remaining = until - time.monotonic()
                if remaining <= 0 and not events:
                    return False  # the next step blocks, and the caller does not want to wait
                if events and (remaining > 0 or events != POLLIN):  # else the step tries to read
                    assert self._connection is not None
                    ready = self._connection.wait(events, min(until, deadline) - time.monotonic())
                    self._check_open()
                    if not ready and (now := time.monotonic()) < deadline:
                        self._next_check = now + PAUSE
                        return False
            overdue = self._waiting is not None and time.monotonic() >= self._waiting[1]
            try:
                self._waiting = steps.throw(Overdue()) if overdue else next(steps)
            except StopIteration:
                self._steps = self._waiting = None
                return True
            if self._waiting[0] == POLLIN and time.monotonic() >= until:
                return False  # the answer is not there at once

    def _check_open(self) -> None:
        if self._closed:
            raise ProviderUnavailable("the request to the provider was cancelled")

    def _steps_to_head(self, new: bool) -> Steps:
        """Connect, send the request and read the answer's head; only a *new* connection if so."""
        times = self._client.timeouts
        self._connection = connection = self._client.acquire(self._address, new)
        if not connection.reused:
            until = time.monotonic() + times.connect
            yield from self._client.connect(connection, until)
        until = time.monotonic() + times.first_byte
        try:
            yield from self._send_and_read_head(connection, until)
        except Overdue as error:
            raise ProviderTimeout("the provider did not answer in time") from error
        except OSError as error:
            if not self._is_safe_to_retry(connection):
                raise UpstreamTruncated("the provider broke the connection off") from error
            connection.close()
            yield from self._steps_to_head(new=True)

    def _is_safe_to_retry(self, connection: Connection) -> bool:
        """Return whether a retry cannot make the provider do the work, and charge for it, twice.

        This holds if *connection* was pooled and broke before all of the request was sent, or so
        soon afterwards that the provider must have closed it before it received the request.
        GET can be repeated in any case (RFC 9110, 9.2.2).
        """
        if self._answered or not connection.reused:
            return False
        if self._method == "GET" or not self._sent:
            return True
        return time.monotonic() - self._sent_at <= _CLOSE_NOTICE + 2 * connection.round_trip

    def _send_and_read_head(self, connection: Connection, until: float) -> Steps:
        connection.queue(*self._request)
        self._sent = False
        while self._head is None:
            if not self._sent:
                self._sent, self._sent_at = connection.flush(), time.monotonic()
            # A server that refuses a long body answers before it has received all of it.
            yield (POLLIN if self._sent else POLLIN | POLLOUT), until
            if (data := connection.receive(0)) == b"":
                raise ConnectionResetError
            if data is not None:
                self._answered = True
                try:
                    self._feed_head(data)
                except FramingError as error:
                    raise UpstreamInvalid(f"{_UNREADABLE}: {error}") from error

    def _feed_head(self, data: bytes) -> None:
        """Parse the final head once it is complete; bytes behind it are the start of the body."""
        seen, data = len(self._head_bytes), self._head_bytes + data
        while (end := head_end(data, seen)) >= 0:
            head = parse_head(data[self._head_start : end], self._method)
            if head.status >= 200:
                self.status, self.headers = head.status, head.headers
                self._head, self._framing = head, head.framing
                self._request = ()
                self.last_received = time.monotonic()
                self._head_bytes, self.unread = b"", data[end:]
                if head.framing.done:
                    self._end(bool(self.unread))
                return
            # 100 Continue or 103 Early Hints; MAX_HEAD limits all heads together.
            self._head_start = seen = end
        self._head_bytes = data

    def _read(self, timeout: float) -> bytes:
        """Return the next bytes of the body, ``b""`` on timeout and at the end."""
        if self.ended:
            return b""
        self._check_open()
        connection, framing = self._connection, self._framing
        assert connection is not None and framing is not None
        now = time.monotonic()
        until = now + timeout
        while True:
            if framing.error is not None:
                raise UpstreamInvalid(f"{_UNREADABLE}: {framing.error}")
            deadline = self.last_received + self._read_timeout
            unread, self.unread = self.unread, b""
            try:
                if isinstance(unread, OSError):
                    raise unread
                data = unread or connection.receive(min(until, deadline) - now)
            except OSError as error:
                raise UpstreamTruncated("the provider broke the connection off") from error
            self._check_open()
            if data is None:
                if time.monotonic() < deadline:
                    return b""
                raise ProviderTimeout(f"the provider was silent for {self._read_timeout:g} s")
            if not data:
                try:
                    framing.end()
                except FramingError as error:
                    message = "the provider closed the connection inside its answer"
                    raise UpstreamTruncated(message) from error
                self._end()
                return b""
            body = framing.feed(data)
            now = self.last_received = time.monotonic()
            if body:
                self._read_timeout = self._client.timeouts.idle
            if framing.done:
                self._end(framing.excess)
            if body or self.ended:
                return body

    def _end(self, excess: bool = False) -> None:
        """End the exchange: return the connection to the pool if it can be used again."""
        assert self._connection is not None and self._head is not None
        with self._ending:
            self.ended = True
            keep = self._head.keep_alive and self._sent and not (self._closed or excess)
        if keep:
            self._connection.framing = self._framing
            self._client.release(self._connection)
        else:
            self._connection.close()
