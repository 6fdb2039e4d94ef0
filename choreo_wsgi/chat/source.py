"""The ports of answers that are read in pieces: items of a provider, bytes for a client.

All of them are :class:`Readable`, so that a thread that waits for one can watch its client too, and
one thread can wait for many:

* ``receive(timeout)`` waits at most *timeout* seconds; ``receive(0)`` never blocks.  It returns the
  data received, which is falsy on timeout, and raises ChoreoError if the provider failed, after the
  data received before.
* ``ended`` becomes true once all data has been returned.
* ``fileno()`` is the descriptor to poll for more data, or None.
* ``due`` is when to call ``receive`` again without new data (a timeout, the end of a pause), as
  ``time.monotonic()``, and ``math.inf`` for never.  If it and ``fileno()`` are both None,
  ``receive(0)`` may block: a thread that serves many readables hands this one to another thread.
* ``close()`` frees everything at once; it may be called at any time and more than once.

Some have a *lane*, a shorter way than ``receive(0)`` for the usual event; see :func:`lane_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from .items import Delta, Finish, Item, Usage

T_co = TypeVar("T_co", covariant=True)


class Readable(Protocol[T_co]):
    """A stream of data that is read with a timeout; the rules are in the module's docstring."""

    @property
    def ended(self) -> bool:
        """Whether all data has been returned."""

    def receive(self, timeout: float) -> T_co:
        """Return the data received within *timeout* seconds, in order."""

    def fileno(self) -> int | None:
        """Return the file descriptor to poll, or None."""

    @property
    def due(self) -> float | None:
        """When to call ``receive`` again without new data, or None."""

    def close(self) -> None:
        """Cancel the answer and free its resources."""


class Lane(Protocol):
    """Forwards the usual events of an upstream to a client directly; see :func:`lane_of`.

    Each is sent as one chunk of a chunked body (RFC 9112, 7.1).
    """

    #: ``time.monotonic()`` of the last event forwarded here; 0 before.
    last_forwarded: float
    #: Called with the number of frames that are forwarded, and the time.
    on_frames: Callable[[int, float], None]
    #: Sends without blocking, as ``socket.send`` does.
    send: Callable[[bytes], int]
    #: Called with the bytes that ``send`` did not accept.
    keep: Callable[[bytes], None]

    def forward(self, now: float) -> bool:
        """Send the event that has arrived, if any, at the time *now*.

        Return False if ``receive`` has to be called instead.
        """


def lane_of(readable: object) -> Lane | None:
    """Return the lane for the next data of *readable*, or None.

    It may be used until ``readable.receive`` is called again.  Until then ``fileno()``, ``due`` and
    ``ended`` of *readable* do not change.
    """
    find = getattr(readable, "lane", None)
    return None if find is None else find()


class Reply(Readable[bytes], Protocol):
    """An answer as bytes: whole SSE frames without the end marker, or one document."""

    @property
    def usage(self) -> Usage | None:
        """The usage that the provider has reported so far, for accounting, or None."""

    @property
    def label(self) -> str:
        """The provider, for the header ``Choreo-Provider``; final once data was received."""


class Delegating:
    """A readable that waits for its ``_source`` alone."""

    _source: Readable[Any]

    def fileno(self) -> int | None:
        return self._source.fileno()

    @property
    def due(self) -> float | None:
        return self._source.due


class Source:
    """An answer as items, as a provider opens it."""

    ended: bool = False
    #: The tokens used so far, if known before the end: a cancelled answer is accounted for with
    #: this once closed.  At the end the usage is returned as an item.
    usage: Usage | None = None

    def receive(self, timeout: float) -> list[Item]:
        """Return the items received within *timeout* seconds, in order."""
        raise NotImplementedError

    def fileno(self) -> int | None:
        return None

    @property
    def due(self) -> float | None:
        return None

    def close(self) -> None:
        """Stop the generation and free its resources."""


def from_deltas(deltas: Iterable[Item]) -> Source:
    """Return a source that returns the items of *deltas* one by one.

    A choice without a :class:`Finish` ends with ``stop``.  An iterable that blocks delays its
    stream: no ping is sent, and a client that has left is noticed only at the next item.
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
            self.ended = True  # a generator that raised looks exhausted at the next call
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
