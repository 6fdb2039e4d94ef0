"""The rules of replay logs, the database operations that they need, and lost producers.

A :class:`~choreo_wsgi.replay.store.Store` holds the frames of resumable streams.  Each stream has
one :class:`~choreo_wsgi.replay.writer.Writer` at a time, its producer, and any number of
:class:`~choreo_wsgi.replay.reader.Reader`.

* A *frame* is one SSE event as :func:`choreo_wsgi.sse.number` writes it:
  ``id: <n>``, one ``data:`` line, a blank line.  Numbers count from 1.  They have a gap only
  if a producer was lost with frames that never reached the log.  Pings are not frames.
* Frames are passed as *blocks*: whole frames, joined.  Readers get exactly the bytes that were
  appended.
* A log ends once, and stays readable for ``replay_ttl_seconds`` after that.  Of a long
  stream only the newest ``replay_stream_bytes`` are retained, of all streams together
  ``replay_total_bytes`` (Redis bounds its memory itself).  Ended logs are deleted first, oldest
  first, then the oldest frames of the longest.  Reading dropped frames raises
  :class:`~choreo_wsgi.errors.StreamGone`.
* An *owner* identifies the caller's key (a digest).  The id of a stream of another owner, an
  expired, an unknown and a malformed id all raise :class:`~choreo_wsgi.errors.NotFound`.
* A store may be shared by several processes.  A producer that stops renewing its lease is
  *lost*: readers get the rest of the log, then :class:`~choreo_wsgi.errors.ProducerLost`.
  The first caller to use the result of ``Store.lost`` ends the log; the writer, if it still
  runs, gets :class:`~choreo_wsgi.replay.writer.Fenced`.
* While the database is unreachable, ``append`` fills a bounded buffer, which is written
  afterwards; all other calls raise :class:`~choreo_wsgi.errors.ReplayUnavailable`.

All methods may be called from any thread, but those of one Writer or Reader from one thread at a
time, except ``Reader.close()``.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

#: Changes a key's counts in the database atomically.  Its second argument is a function that
#: modifies them, a JSON object that is initially empty; it also gets the database's time in
#: seconds, and its result is returned.  Raises Unreachable.
Change = Callable[[str, Callable[[Any, float], Any]], Any]

#: About how many bytes a reader returns at once: enough to be efficient, and few enough that a
#: thousand concurrent replays do not hold a thousand whole logs in memory.
READ_BYTES = 256 * 1024


class Unreachable(Exception):
    """The database does not answer, or reports a failure."""


class Block(NamedTuple):
    """Frames *first* to *last*."""

    first: int
    last: int
    data: bytes


class Write(NamedTuple):
    """Blocks to append to stream *id* of *owner*.

    *last* is the number of the writer's last frame.  If the blocks end before it, frames were
    dropped: the log is emptied and continues after *last*.
    """

    id: str
    owner: str
    blocks: Sequence[Block]
    last: int
    end: bool


class Status(NamedTuple):
    """The state of a stream in the database.

    *producer* is empty if the stream was ended on behalf of a lost one.  *beat* is the counter of
    its lease: None without a lease, negative after the producer has released it.
    """

    owner: str
    first: int
    last: int
    ended: bool
    cancelled: bool
    producer: str
    beat: int | None


class Beat(NamedTuple):
    """The answer to a beat.

    *fresh* is true if the lease did not exist before.  *cancelled* and *read* hold the ids of the
    producer's streams that are cancelled, and that were read since the last beat.
    """

    fresh: bool
    cancelled: list[str]
    read: list[str]


class Backend(ABC):
    """A database of streams, whose operations are atomic and stateless.

    Every call may raise Unreachable, within a second or two.
    """

    #: Whether it belongs to this process alone, is always reachable and never blocks.  A local
    #: backend need not override the operations below that are not abstract.
    local = False

    @abstractmethod
    def insert(
        self, id: str, owner: str, key: str | None, digest: str, producer: str
    ) -> tuple[str, str] | None:
        """Create an empty stream, unless one with the same id exists.

        If *key* already names a stream, create none and return that stream's id and digest.
        """

    @abstractmethod
    def write(self, producer: str, writes: Sequence[Write]) -> list[bool]:
        """Append the blocks of all *writes* of *producer*, in as few round trips as possible.

        Writes may be repeated, so blocks that the log already has are skipped.  A block that does
        not follow the last one in the log replaces the whole log.  A stream that does not exist
        (any more) is created, without a key.

        Returns for each write whether it succeeded: False if another process has ended the
        stream, as its producer was lost.
        """

    @abstractmethod
    def fetch(self, id: str, after: int | None) -> tuple[Status, list[Block]] | None:
        """Return the state of the stream and the next blocks that end after frame *after*.

        None if there is no such stream; no blocks if *after* is None.
        """

    @abstractmethod
    def mark(self, id: str, mark: Literal["cancelled", "read"]) -> None:
        """Mark the stream as cancelled, or read, for its producer, unless it has ended."""

    def make_room(self, id: str, size: int) -> None:
        """Drop what the next *size* bytes will push out of the stream, if it is in memory."""

    def end(self, id: str, seen: Status, block: Block) -> None:
        """End the stream with *block* for its lost producer, if its status is still *seen*."""

    @abstractmethod
    def delete(self, id: str) -> None:
        """Delete the stream and its key."""

    @abstractmethod
    def free_key(self, id: str) -> None:
        """Free the stream's key for another stream."""

    def beat(self, producer: str, running: Sequence[str]) -> Beat:
        """Renew the lease of *producer*, whose streams are *running*."""
        return Beat(False, [], [])

    def has_lease(self, producer: str) -> bool:
        """Return whether the lease of *producer* exists: False if the database lost its data."""
        return True

    def sweep(self, lost: Callable[[str, int | None], bool]) -> None:
        """Delete expired streams, and enough to respect the limit, if the database does not.

        *lost* returns whether the producer with a beat is lost.
        """

    def wait_for_changes(
        self, waiting: Callable[[], Mapping[str, int]], stop: threading.Event
    ) -> Iterable[str]:
        """Wait a moment, or until *stop*; return the ids of streams that may have grown.

        *waiting* returns the ids of the streams with readers, each with the number of the last
        frame that all its readers have.
        """
        return ()

    def release_lease(self, producer: str) -> None:
        """Release the lease, so that unfinished streams count as lost at once."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections."""


class LeaseObserver:
    """Decides which producers are lost, by their beats and this host's monotonic clock.

    A producer is lost if its beat has not changed for *lease* seconds in which the database was
    reachable.  So the clocks of two hosts are never compared.
    """

    def __init__(self, lease: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease = lease
        self._clock = clock
        self._seen: dict[str, tuple[int | None, float]] = {}

    def lost(self, producer: str, beat: int | None) -> bool:
        """Record a *beat* that was just fetched; return whether *producer* is lost."""
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
        """Forget all beats, as the producers could not reach the database either."""
        self._seen.clear()
