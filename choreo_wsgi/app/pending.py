"""An answer whose HTTP status is not known yet.

WSGI lets an application call ``start_response`` as late as with the first bytes of its body
(PEP 3333).  So nobody waits inside the callable for a provider's first byte, which decides
between a stream and an error: the body that is returned waits.  Any server just iterates; one
that serves many from one thread polls instead.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator

from ..chat.source import Readable
from ..streams.stream import TICK, Control
from .response import Response


class ClientGone(Exception):
    """The client closed its connection while its answer was being waited for."""


class Pending:
    """The body of an answer that the first bytes of *readable* decide.

    *decide* is given them, once; ``b""`` when there were none to the end, or for *patience*
    seconds.  If it has to see the *whole*, only the end decides.  *abandon* is called instead
    if it does not come to that: with the error that is answered, or None when nobody hears of
    it.  *gone* tells whether the client has left.
    """

    ended = False  # the body that goes on ends
    #: Calls start_response with what the given function returns or raises; returns the body.
    respond: Callable[[Callable[[], Response]], Iterable[bytes]]

    def __init__(
        self,
        readable: Readable[bytes],
        decide: Callable[[bytes], Response],
        abandon: Callable[[Exception | None], None],
        *,
        gone: Callable[[], bool],
        control: Control,
        patience: float = math.inf,
        whole: bool = False,
    ) -> None:
        self._readable = readable
        self._decide = decide
        self._abandon: Callable[[Exception | None], None] | None = abandon
        self._gone = gone
        self._control = control
        self._deadline = time.monotonic() + patience
        self._whole = whole
        self._first = b""
        self._failure: Exception | None = None
        #: The body that goes on with the answer, once it is decided.
        self.decided: Iterable[bytes] | None = None
        self._rest: Iterator[bytes] | None = None

    def ready(self, timeout: float = 0.0) -> bytes:
        """Wait at most *timeout* seconds for the decision; return ``b""``."""
        if self._arrived(timeout):
            self.decided = self.respond(self._response)
        return b""

    def _arrived(self, timeout: float) -> bool:
        """Return whether the answer can be decided."""
        try:
            self._first = self._readable.receive(timeout)
            if (
                (self._first and not self._whole)
                or self._readable.ended
                or time.monotonic() >= self._deadline
            ):
                return True
            self._control.check()
            if self._gone():
                raise ClientGone
        except Exception as error:
            self._failure = error
            return True
        return False

    def _response(self) -> Response:
        try:
            if self._failure is not None:
                raise self._failure
            response = self._decide(self._first)
        except Exception as error:
            self._give_up(error)
            raise
        self._abandon = None
        return response

    def _give_up(self, error: Exception | None) -> None:
        abandon, self._abandon = self._abandon, None
        if abandon is not None:
            self._readable.close()
            abandon(error)

    def fileno(self) -> int | None:
        """Return the file descriptor to poll before :meth:`ready`, or None."""
        return self._readable.fileno()

    @property
    def due(self) -> float | None:
        """When to call :meth:`ready` although nothing came; None: it may block."""
        due = self._readable.due
        if due is None and self._readable.fileno() is None:
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
        """Give everything back; safe to call at any time, repeatedly."""
        self._give_up(None)
        close = getattr(self.decided, "close", None)
        if close is not None:
            close()
