"""An answer whose HTTP status is not known yet.

WSGI lets an application call ``start_response`` as late as with the first bytes of its body
(PEP 3333).  The provider's first byte decides between a stream and an error.  So the application
returns at once, and the body waits for that byte.  Any WSGI server just iterates over the body; a
server that serves many answers from one thread polls it instead.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator

from ..chat.source import Readable
from ..streams.stream import LARGE, TICK, Control
from .response import Response


class ClientGone(Exception):
    """The client closed its connection before its answer was decided."""


class Pending:
    """The body of an answer that is decided by the first bytes of *readable*.

    *decide* is called once with these bytes and returns the response.  They are ``b""`` if
    *readable* ended without any, or sent none for *patience* seconds.  With *whole* it is called
    only at the end of *readable*.  *abandon* is called instead if there will be no decision, with
    the error that is answered, or None if the client has left.  *client_left* returns whether the
    client has closed its connection.
    """

    ended = False  # the decided body has an end, this one has none
    #: Calls start_response for the response that the argument returns or raises; returns the body.
    respond: Callable[[Callable[[], Response]], Iterable[bytes]]

    def __init__(
        self,
        readable: Readable[bytes],
        decide: Callable[[bytes], Response],
        abandon: Callable[[Exception | None], None] = lambda error: None,
        *,
        client_left: Callable[[], bool],
        control: Control,
        patience: float = math.inf,
        whole: bool = False,
    ) -> None:
        self._readable = readable
        self._decide = decide
        self._abandon: Callable[[Exception | None], None] | None = abandon
        self._client_left = client_left
        self._control = control
        self._deadline = time.monotonic() + patience
        self._whole = whole
        self._is_large = self._is_late = False  # read where no stream waits for it
        self._first = b""
        self._failure: Exception | None = None
        #: The body of the answer, once it is decided.
        self.decided: Iterable[bytes] | None = None
        self._rest: Iterator[bytes] | None = None

    def ready(self, timeout: float = 0.0) -> bytes:
        """Wait at most *timeout* seconds for the decision; return ``b""``."""
        if self._can_decide(timeout):
            self.decided = self.respond(self._response)
        return b""

    def _can_decide(self, timeout: float) -> bool:
        """Wait at most *timeout* seconds; return whether the answer can be decided."""
        try:
            if not self._is_late:
                self._first = b""  # it may be large
                self._first = self._readable.receive(timeout)
            self._is_large |= self._whole and len(self._first) > LARGE
            at_end = self._readable.ended or time.monotonic() >= self._deadline
            if at_end or (self._first and not self._whole):
                self._is_late = self._is_large and timeout <= 0
                return not self._is_late
            self._control.check()
            if self._client_left():
                raise ClientGone
        except Exception as error:
            self._failure = error
            return True
        return False

    def _response(self) -> Response:
        try:
            if self._failure is not None:
                raise self._failure
            first, self._first = self._first, b""
            response = self._decide(first)
        except Exception as error:
            self._give_up(error)
            raise
        self._abandon = None
        return response

    def _give_up(self, error: Exception | None) -> None:
        abandon, self._abandon = self._abandon, None
        if abandon is not None:
            try:
                self._readable.close()
            finally:
                abandon(error)

    def fileno(self) -> int | None:
        """Return the file descriptor to poll before :meth:`ready`, or None."""
        return None if self._is_late else self._readable.fileno()

    @property
    def due(self) -> float | None:
        """The ``time.monotonic()`` at which to call :meth:`ready` in any case; None: it blocks."""
        due = self._readable.due
        if self._is_late or (due is None and self._readable.fileno() is None):
            return None
        return self._deadline if due is None else min(due, self._deadline)

    def __iter__(self) -> Pending:
        return self

    def __next__(self) -> bytes:
        while self.decided is None:
            self.ready(TICK)
        if self._rest is None:
            self._rest = iter(self.decided)
        return next(self._rest)

    def close(self) -> None:
        """Release all resources; idempotent, and safe at any time."""
        self._give_up(None)
        close = getattr(self.decided, "close", None)
        if close is not None:
            close()
