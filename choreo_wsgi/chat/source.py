"""What is read piece by piece: items from a provider, bytes on their way to a caller.

All of it is :class:`Readable`, so that a waiting thread can look after the caller too, and one
thread can wait for many:

* ``receive(timeout)`` waits at most *timeout* seconds; ``receive(0)`` never blocks.  It
  returns what came, which is falsy when nothing did, and raises ChoreoError when the
  provider failed.  What came before a failure is returned first.
* ``ended`` turns true when all has been returned.
* ``fileno()`` is what to poll for more, or None.
* ``due`` is when to ask again although nothing came (a time-out, the end of a pause), as
  ``time.monotonic()`` and ``math.inf`` for never.  When it and ``fileno()`` are both None only
  waiting tells, and ``receive(0)`` may block: a thread that serves many leaves it to another.
* ``close()`` lets go of everything at once, at any time, as often as wanted.

Some know a *lane*, a shorter way than ``receive(0)`` for what comes most of the time; see
:func:`lane_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from .items import Delta, Finish, Item, Usage

T_co = TypeVar("T_co", covariant=True)


class Readable(Protocol[T_co]):
    """Something that ends and is read with a timeout; see the module's text for the rules."""

    @property
    def ended(self) -> bool:
        """Whether all has been returned."""

    def receive(self, timeout: float) -> T_co:
        """Return what came within *timeout* seconds, in order."""

    def fileno(self) -> int | None:
        """Return the file descriptor to poll, or None."""

    @property
    def due(self) -> float | None:
        """When to ask again although nothing came, or None."""

    def close(self) -> None:
        """Stop what is being read and free what it holds."""


class Lane(Protocol):
    """A way for what comes most of the time from an upstream to a client; see :func:`lane_of`.

    What passes here is sent as one chunk of a chunked body (RFC 9112, 7.1).
    """

    #: When something passed here last, ``time.monotonic()``; 0 before.
    heard: float
    #: Told how many frames pass, and when.
    on_frames: Callable[[int, float], None]
    #: Sends without waiting, as ``socket.send`` does; is given what that did not take.
    send: Callable[[bytes], int]
    keep: Callable[[bytes], None]

    def forward(self, now: float) -> bool:
        """Send what came until *now*; return False if it has to be received and sent otherwise."""


def lane_of(readable: object) -> Lane | None:
    """Return the lane for what *readable* returns next, or None where it has none.

    It may be used until *readable* is received from the next time.  Until then neither what
    that waits for changes, nor whether it has ended.
    """
    find = getattr(readable, "lane", None)
    return None if find is None else find()


class Reply(Readable[bytes], Protocol):
    """An answer as bytes: whole SSE frames without their ending, or one document."""

    @property
    def usage(self) -> Usage | None:
        """What the provider reported so far, for the accounting; None when nothing."""

    @property
    def label(self) -> str:
        """Who answers, for the header ``Choreo-Provider``; final once something came."""


class Delegating:
    """Waits for its ``_source``, and for nothing else."""

    _source: Readable[Any]

    def fileno(self) -> int | None:
        return self._source.fileno()

    @property
    def due(self) -> float | None:
        return self._source.due


class Source:
    """An answer as items: what a provider opens."""

    ended: bool = False
    #: What was used so far, where the source can tell before its end: an answer that is
    #: broken off is accounted for with it, once closed.  At the end it is handed over as an
    #: item.
    usage: Usage | None = None

    def receive(self, timeout: float) -> list[Item]:
        """Return what came within *timeout* seconds, in order."""
        raise NotImplementedError

    def fileno(self) -> int | None:
        return None

    @property
    def due(self) -> float | None:
        return None

    def close(self) -> None:
        """Stop the generation and free what it holds."""


def from_deltas(deltas: Iterable[Item]) -> Source:
    """Return a source that hands over the items of *deltas* one by one.

    A choice that gets no :class:`Finish` ends with ``stop``.  An iterable that waits for
    something holds its stream up meanwhile: no ping is sent, and a client that left is
    noticed at the next item only.
    """
    return _Iterated(iter(deltas))


class _Iterated(Source):
    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items
        self._open: dict[int, None] = {0: None}
        self._finished: set[int] = set()

    def receive(self, timeout: float) -> list[Item]:
        if self.ended:
            return []
        try:
            item = next(self._items, None)
        except Exception:
            self.ended = True  # an iterator that raised looks exhausted when asked again
            raise
        if item is None:
            self.ended = True
            return [Finish("stop", index) for index in self._open if index not in self._finished]
        if isinstance(item, Finish):
            self._finished.add(item.index)
        elif isinstance(item, Delta):
            self._open[item.index] = None
        return [item]

    def close(self) -> None:
        self.ended = True
        close = getattr(self._items, "close", None)
        if close is not None:
            close()
