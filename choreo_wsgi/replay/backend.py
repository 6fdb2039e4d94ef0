"""What a shared store asks of its database, and how it tells that a producer is lost.

A :class:`Backend` is a handful of calls, each atomic and each without a memory of its own;
:mod:`~choreo_wsgi.replay.shared` builds the port on them.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Unreachable(Exception):
    """The database does not answer, or cannot do what it should."""


class Block(NamedTuple):
    """Frames *first* to *last*; *previous* is the number of the frame appended before them."""

    previous: int
    first: int
    last: int
    data: bytes


@dataclass(frozen=True)
class Identity:
    """What a stream is made of."""

    id: str
    owner: str
    key: str | None = None
    digest: str = ""


class Write(NamedTuple):
    """What is to be appended to stream *id* by the writer of *epoch*.

    *last* is the number of the last frame that was appended: when the log and the blocks do
    not reach it, frames were dropped, and with them the log up to there.
    """

    id: str
    epoch: int
    blocks: Sequence[Block]
    last: int
    end: bool


class Outcome(Enum):
    """What became of a :class:`Write`."""

    DONE = "done"
    FENCED = "fenced"  # the stream has a writer of another epoch
    MISSING = "missing"  # there is no such stream (any more)


class Status(NamedTuple):
    """A stream as the database has it.

    *fork* is the number after which the writer of *epoch* began.  *beat* is that of the
    *producer*'s lease: None when there is none, negative when it has left.
    """

    owner: str
    first: int
    last: int
    ended: bool
    cancelled: bool
    producer: str
    epoch: int
    fork: int
    beat: int | None


class Beat(NamedTuple):
    """The answer to a beat.

    *fresh* is whether there was no lease before.  *cancelled* and *read* are which of the
    producer's streams are cancelled and which were read since the last beat.
    """

    fresh: bool
    cancelled: list[str]
    read: list[str]


class Backend(ABC):
    """A database of streams; every call may raise Unreachable, within a second or two."""

    @abstractmethod
    def insert(self, new: Identity, producer: str, epoch: int) -> tuple[str, str] | None:
        """Make the stream, with *epoch* and no frames.

        If its key already names a stream, make none and return that one's id and digest.
        A stream of the same id stays as it is.
        """

    @abstractmethod
    def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """Append, in as few round trips as can be.

        A block that is in the log already is skipped: the same write may come twice.  A
        block whose previous frame is not in the log replaces all of it.
        """

    @abstractmethod
    def fetch(self, id: str, after: int | None) -> tuple[Status, list[Block]] | None:
        """Return the stream and some of its blocks that end after frame *after*, in order.

        No blocks when *after* is None.  None when there is no such stream.  The blocks'
        *previous* is not kept.
        """

    @abstractmethod
    def cancel(self, id: str) -> None:
        """Mark the stream as cancelled, unless it has ended."""

    @abstractmethod
    def claim(self, id: str, seen: Status, producer: str, fork: int) -> bool:
        """Make *producer* the stream's next writer if nothing is newer than *seen*."""

    @abstractmethod
    def delete(self, id: str, epoch: int) -> None:
        """Forget the stream and its key, if *epoch* is still its writer's."""

    @abstractmethod
    def free_key(self, id: str, epoch: int) -> None:
        """Let the stream's key name another stream, if *epoch* is still its writer's."""

    @abstractmethod
    def beat(self, producer: str, running: Sequence[str]) -> Beat:
        """Renew the lease of *producer*, which has the streams *running*."""

    def remembers(self, producer: str) -> bool:
        """Return whether the lease of *producer* is there: False after a loss of all data."""
        return True

    @abstractmethod
    def see(self, id: str, producer: str) -> None:
        """Tell *producer* that its stream has a reader."""

    @abstractmethod
    def sweep(self, lost: Callable[[str, int | None], bool]) -> None:
        """Remove what has expired and what is above the limit of all streams.

        *lost* tells from a producer and its beat whether it is lost.
        """

    @abstractmethod
    def changed(
        self, waiting: Callable[[], Mapping[str, int]], stop: threading.Event
    ) -> Iterable[str]:
        """Wait a moment, until *stop* at most; return which streams have grown.

        *waiting* returns the streams that are of interest at this very moment, each with
        the number that it is to be beyond.  More than what is true may be returned.
        """

    @abstractmethod
    def leave(self, producer: str) -> None:
        """Give up the lease, so that streams which have not ended are lost at once."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections."""


class Observer:
    """Tells which producers are lost, by their beats and this host's steady clock alone.

    A producer is lost when its beat has not changed for *lease* seconds during all of which
    the database could be reached.  No two clocks are compared, and none that can be set.
    """

    def __init__(self, lease: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease = lease
        self._clock = clock
        self._seen: dict[str, tuple[int | None, float]] = {}

    def lost(self, producer: str, beat: int | None) -> bool:
        """Take note of a *beat* that was just read; return whether *producer* is lost."""
        if beat is not None and beat < 0:
            return True
        now = self._clock()
        if len(self._seen) > 10_000:
            self._seen.clear()
        known, since = self._seen.setdefault(producer, (beat, now))
        if known != beat:
            self._seen[producer] = (beat, now)
            return False
        return now - since >= self._lease

    def reset(self) -> None:
        """Begin anew: the database could not be reached, by the producers neither."""
        self._seen.clear()
