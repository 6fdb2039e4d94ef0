"""One request and its answer."""

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
from .request import Overdue, Steps

if TYPE_CHECKING:
    from .pool import Client

# Seconds that the news of a closed connection takes, besides its round trip.
_AT_ONCE = 0.1
_NO_HEADERS = Headers()
_UNREADABLE = "the provider's answer cannot be read"

#: Seconds between two questions whether a socket is writable, where nobody tells.
PAUSE = 0.01


class Exchange:
    """A request under way and its answer.

    *status* is None and *headers* is empty until the answer's head came.  One thread at a time may
    receive; any thread may close.
    """

    def __init__(self, client: Client, address: Address, method: str, *request: bytes) -> None:
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
        self._early = b""  # the bytes that came, until the head is whole
        self._start = 0  # where in them it begins
        #: What was read and has to be looked at: bytes of the body, or the connection's failure.
        self.unread: bytes | OSError = b""
        self._steps: Steps | None = self._begin(fresh=False)
        self._waiting: tuple[int, float] | None = None
        #: When a piece of the body, or the head, came last.
        self.heard = 0.0
        self._again = 0.0  # when to ask whether the socket is writable
        self._patience = client.timeouts.first_byte
        self._sent = self._closed = False
        self._sent_at = 0.0
        self._answered = False  # a byte of the answer has come
        self._busy = threading.Lock()
        # Held while the connection is either aborted or given back: never both.
        self._ending = threading.Lock()

    def receive(self, timeout: float) -> bytes:
        """Return the body's bytes that came within *timeout* seconds, chunking undone.

        ``b""`` when nothing came in time; ``receive(0)`` never blocks.  What came before a
        failure is returned first.  Raises ProviderUnavailable (no connection, or closed by
        us), ProviderTimeout, UpstreamTruncated (it broke before the answer's end),
        UpstreamInvalid (not HTTP).
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
                if self._closed and not self.ended and self._connection is not None:
                    self._connection.close()

    def chunks(self) -> tuple[Callable[[], bytes | None], Mapping[bytes, int]] | None:
        """Return how to read chunks past :meth:`receive`, if the next byte begins one.

        A function that does as ``Connection.receiver`` says, and the lines that begin chunks.
        Only the thread that receives uses them; what it cannot use becomes ``unread``.
        """
        connection, framing = self._connection, self._framing
        if self.ended or self._closed or self.unread or not isinstance(framing, Chunked):
            return None
        if connection is None or not framing.fresh:
            return None
        return connection.receiver(), framing.sizes

    def fileno(self) -> int | None:
        """Return the file descriptor that turns readable, or None when only asking tells."""
        connection = self._connection
        if connection is None or self.ended or self._closed:
            return None  # the connection may be another exchange's by now
        return connection.fileno(self.events)

    @property
    def events(self) -> int:
        """What is waited for: ``select.POLLIN``, with or without ``select.POLLOUT``."""
        if self._steps is None:
            return POLLIN
        return self._waiting[0] if self._waiting is not None else POLLOUT

    @property
    def due(self) -> float | None:
        """When to ask again although nothing came; None while a name must be looked up."""
        # The end may be known, which no descriptor tells again.
        connection, framing = self._connection, self._framing
        if (
            self.ended
            or self._closed
            or (framing is not None and framing.error is not None)
            or (connection is not None and connection.tls is not None and connection.tls.ended)
        ):
            return 0.0
        if self._steps is None:
            return self.heard + self._patience
        if self._waiting is None:
            return 0.0
        events, deadline = self._waiting
        if not events:
            return None
        told = events == POLLIN or self.fileno() is not None
        return deadline if told else min(deadline, self._again)

    def close(self) -> None:
        """Let go of the connection, in whatever phase, from any thread, as often as wanted."""
        with self._ending:
            self._closed = True
            connection = self._connection
            if connection is None or self.ended:
                return
            connection.abort()
        # A descriptor closed under a reader could be another connection's a moment later,
        # so one who is inside receive() closes it himself.
        if self._busy.acquire(blocking=False):
            try:
                if not self.ended:
                    connection.close()
            finally:
                self._busy.release()

    def finish(self) -> None:
        """Say that the rest of the body does not matter.

        The connection is kept when nothing but the end of the body is still to come, which
        shows when it is used next.
        """
        with self._busy:
            if self.ended or self._steps is not None or self._framing is None:
                return
            self._end()

    def _advance(self, steps: Steps, until: float) -> bool:
        """Go on up to the answer's head until the time *until*; return whether it is there."""
        while True:
            self._check_open()
            if self._waiting is not None:
                events, deadline = self._waiting
                patience = until - time.monotonic()
                if patience <= 0 and not events:
                    return False  # what comes next may block, and nobody may wait
                if events and (patience > 0 or events != POLLIN):  # else reading tells as well
                    assert self._connection is not None
                    ready = self._connection.wait(events, min(until, deadline) - time.monotonic())
                    self._check_open()
                    if not ready and (now := time.monotonic()) < deadline:
                        self._again = now + PAUSE
                        return False
            overdue = self._waiting is not None and time.monotonic() >= self._waiting[1]
            try:
                self._waiting = steps.throw(Overdue()) if overdue else next(steps)
            except StopIteration:
                self._steps = self._waiting = None
                return True
            if self._waiting[0] == POLLIN and time.monotonic() >= until:
                return False  # an answer takes a while

    def _check_open(self) -> None:
        if self._closed:
            raise ProviderUnavailable("the request to the provider was broken off")

    def _begin(self, fresh: bool) -> Steps:
        """Connect, send the request and collect the head of the answer."""
        times = self._client.timeouts
        self._connection = connection = self._client.take(self._address, fresh)
        if not connection.reused:
            until = time.monotonic() + times.connect
            yield from self._client.connect(connection, until)
        until = time.monotonic() + times.first_byte
        try:
            yield from self._talk(connection, until)
        except Overdue as error:
            raise ProviderTimeout("the provider did not answer in time") from error
        except OSError as error:
            if not self._can_be_sent_again(connection):
                raise UpstreamTruncated("the provider broke the connection off") from error
            # It died while it was idle, which shows only now: once more, on a connection that
            # is new for sure.
            connection.close()
            yield from self._begin(fresh=True)

    def _can_be_sent_again(self, connection: Connection) -> bool:
        """Return whether nobody can have begun to work on the request, which may cost money.

        So it is when *connection* had been kept and broke before all of the request was sent,
        or so soon after that the provider must have closed it before the request came.  What
        changes nothing may be asked again in any case (RFC 9110, 9.2.2).
        """
        if self._answered or not connection.reused:
            return False
        if self._method in ("GET", "HEAD") or not self._sent:
            return True
        return time.monotonic() - self._sent_at <= _AT_ONCE + 2 * connection.round_trip

    def _send(self, connection: Connection) -> None:
        self._sent = connection.flush()
        self._sent_at = time.monotonic()

    def _talk(self, connection: Connection, until: float) -> Steps:
        connection.queue(*self._request)
        self._send(connection)
        while self._head is None:
            # A server that does not want the rest of a long body answers before its end.
            yield (POLLIN if self._sent else POLLIN | POLLOUT), until
            if not self._sent:
                self._send(connection)
            if (data := connection.receive(0)) == b"":
                raise ConnectionResetError
            if data is not None:
                self._answered = True
                try:
                    self._take_head(data)
                except FramingError as error:
                    raise UpstreamInvalid(f"{_UNREADABLE}: {error}") from error

    def _take_head(self, data: bytes) -> None:
        """Find the final head in *data*; what follows it is the start of the body."""
        seen, data = len(self._early), self._early + data
        while (end := head_end(data, seen)) >= 0:
            head = parse_head(data[self._start : end], self._method)
            if head.status >= 200:
                self.status, self.headers = head.status, head.headers
                self._head, self._framing = head, head.framing
                self._request = ()
                self.heard = time.monotonic()
                self._early, self.unread = b"", data[end:]
                if head.framing.done:
                    self._end(bool(self.unread))
                return
            self._start = seen = end  # 100 Continue or 103 Early Hints; all together are bounded
        self._early = data

    def _read(self, timeout: float) -> bytes:
        """Return the body's bytes that come next."""
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
            deadline = self.heard + self._patience
            if now >= deadline:
                raise ProviderTimeout(f"the provider was silent for {self._patience:g} s")
            unread, self.unread = self.unread, b""
            try:
                if isinstance(unread, OSError):
                    raise unread
                data = unread or connection.receive(min(until, deadline) - now)
            except OSError as error:
                self._check_open()
                raise UpstreamTruncated("the provider broke the connection off") from error
            self._check_open()
            if data is None:
                return b""
            if not data:
                try:
                    framing.end()
                except FramingError as error:
                    message = "the provider closed the connection inside its answer"
                    raise UpstreamTruncated(message) from error
                self._end()
                return b""
            body = framing.feed(data)
            now = self.heard = time.monotonic()
            if body:
                self._patience = self._client.timeouts.idle
            if framing.done:
                self._end(framing.excess)
            if body or self.ended or (now >= until and framing.error is None):
                return body

    def _end(self, excess: bool = False) -> None:
        """The answer is over: keep the connection if it can be used again."""
        assert self._connection is not None and self._head is not None
        with self._ending:
            self.ended = True
            keep = self._head.keep_alive and self._sent and not (self._closed or excess)
        if keep:
            self._connection.framing = self._framing
            self._client.give_back(self._connection)
        else:
            self._connection.close()
