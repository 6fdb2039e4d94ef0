"""The port of the replay logs: the interface of a store of resumable streams.

A :class:`Store` holds the frames of resumable streams.  Each stream has one
:class:`Writer` at a time, its producer, and any number of :class:`Reader`.

* A *frame* is one SSE event as :func:`choreo_wsgi.sse.frame` writes it with an ``id``:
  ``id: <n>``, one ``data:`` line, a blank line.  Numbers count from 1 without a gap; only
  when a producer was lost with frames that never reached the log is there one.  Pings are
  not frames.
* Frames are passed as *blocks*: whole frames, joined.  Readers get the very bytes that were
  appended.
* A log ends once.  It stays readable for ``replay_ttl_seconds`` after that.  Of a long
  stream only the newest ``replay_stream_bytes`` are retained, of all streams together
  ``replay_total_bytes`` (Redis bounds its memory itself): ended logs go first, oldest first,
  then the oldest frames of the longest.  Reading dropped frames raises
  :class:`~choreo_wsgi.errors.StreamGone`.
* An *owner* identifies the caller's key (a digest).  The id of a stream of another owner, an
  expired, an unknown and a malformed id all raise :class:`~choreo_wsgi.errors.NotFound`.
* A store may be shared by several processes.  A producer that stops renewing its lease is
  *lost*: readers get the rest of the log, then :class:`~choreo_wsgi.errors.ProducerLost`.
  One of those who ask :meth:`Store.lost` then ends the log; the writer, if it still runs, gets
  :class:`Fenced`.
* While a shared store cannot be reached, ``append`` fills a bounded buffer, which is written when
  the store is back; all other calls raise :class:`~choreo_wsgi.errors.ReplayUnavailable`.

All methods may be called from any thread; one Writer or Reader only from one at a time,
except ``Reader.close()``.
"""

from __future__ import annotations

import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import IdempotencyConflict, NotFound, ProducerLost, StreamGone

#: About how much a reader hands over at once: enough to be efficient, little enough that
#: a thousand replays at the same time are not a thousand whole logs in memory.
READ_BYTES = 256 * 1024

_ID = re.compile(r"strm_[A-Za-z0-9_-]{32}")


class Fenced(ProducerLost):
    """Somebody else ended or deleted the stream; frames of this writer are dropped."""


@dataclass(frozen=True)
class Claim:
    """The result of ``create``: a new stream and its *writer*, or an existing one to join.

    *writer* is None if the idempotency key already names the stream *id*.
    """

    id: str
    writer: Writer | None


@dataclass(frozen=True)
class Lost:
    """A running stream whose producer is lost.

    *last* is the number of the last frame that was seen, *cancelled* whether the stream was to
    stop.  ``end(frames, count)`` ends the log with *count* whole frames, numbered from
    ``last + 1``; it does nothing when somebody was faster, or the producer is back.
    """

    last: int
    cancelled: bool
    end: Callable[[bytes, int], None]


class Writer(ABC):
    """The producer's end of a stream.

    *last* is the number of the frame appended last.  *cancelled* turns true within about a
    second after ``Store.cancel``, wherever that was called: stop, append the error frame,
    end.  *last_read* is when (``time.monotonic``) the stream was last known to have a
    reader, or else was created; it may lag by a few seconds.  *ended* is whether the log
    was ended or discarded by this writer.  *blocking* is whether ``append`` may wait.
    """

    blocking: bool = True

    id: str
    last: int
    cancelled: bool
    last_read: float
    ended: bool

    @abstractmethod
    def append(self, frames: bytes, count: int, *, end: bool = False, wait: bool = True) -> None:
        """Append *count* whole *frames*, joined, numbered from ``last + 1``.

        Returns when they are in the log, in a shared store after at most 50 ms (0.05 s),
        in a store that cannot be reached at once; then they may be sent to the client.
        ``wait=False`` never waits.  ``end=True`` ends the log with these frames.

        Raises Fenced when somebody else ended the log, ValueError for bytes that do not begin
        with the next number or do not end a frame, and when this writer has ended it.
        """

    def finish(self) -> None:
        """End the log with what it has; nothing happens when it has ended before."""
        if not self.ended:
            self.append(b"", 0, end=True)

    @abstractmethod
    def discard(self) -> None:
        """Forget the stream and its idempotency key, as if it had never been created.

        Idempotent; readers get NotFound.
        """

    @abstractmethod
    def fail(self, frames: bytes, count: int) -> None:
        """End the log with *count* frames that hold an error, and free the idempotency key.

        For a request that failed before its first frame: callers that joined it by its key read
        the error, later requests with the key begin a new stream.
        """


class Reader(ABC):
    """A reading of a stream, in the manner of a source.

    *last* is the number of the frame handed over last (at first, what was asked for).
    *ended* turns true with the last block of an ended log.
    """

    id: str
    last: int
    ended: bool

    @abstractmethod
    def receive(self, timeout: float) -> bytes:
        """Return the frames after *last*, joined; ``b""`` if none came in *timeout* seconds.

        A reader beyond the end of an ended log gets its last frame, so that it learns how
        the stream ended.  Raises StreamGone when the window has moved past *last*,
        NotFound when the stream expired or was discarded, ProducerLost when all is
        read and the producer is lost, ReplayUnavailable when the store cannot be reached
        for long (a short outage is a silence).  The first call never waits when there is
        something to hand over.
        """

    def fileno(self) -> int | None:
        """Return the descriptor that turns readable when there may be more, or None."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Free the reader; a ``receive`` in another thread returns soon."""


class Store(ABC):
    """The replay logs of all streams; *blocking* is whether its methods may wait."""

    blocking: bool = True

    @property
    def reachable(self) -> bool:
        """Whether the store can be used now."""
        return True

    @abstractmethod
    def create(self, owner: str, *, key: str | None = None, digest: str = "") -> Claim:
        """Make a stream of *owner*.

        *key* is the caller's Idempotency-Key and *digest* that of the request's body.  Of
        several calls with the same owner and key one makes the stream, the others get its
        id to join as long as it is there.  Raises IdempotencyConflict when their digest
        differs, and ReplayUnavailable when a key is given and the store cannot be reached
        (without one the stream begins in the buffer).
        """

    @abstractmethod
    def read(self, id: str, owner: str, after: int = 0) -> Reader:
        """Return a reader of what follows frame *after*.

        Raises NotFound, StreamGone and ReplayUnavailable at once.
        """

    @abstractmethod
    def cancel(self, id: str, owner: str) -> None:
        """Ask the producer, wherever it is, to stop; idempotent, nothing to an ended log.

        When the producer is lost, ``lost().cancelled`` is true.
        Raises NotFound and ReplayUnavailable.
        """

    @abstractmethod
    def delete(self, id: str, owner: str) -> None:
        """Forget a stream; its readers get NotFound, and its producer, should it run, Fenced.

        One that runs in another process must have been cancelled, and has a few seconds to
        end.  Raises NotFound and ReplayUnavailable.
        """

    @abstractmethod
    def lost(self, id: str, owner: str, after: int = 0) -> Lost | None:
        """Return what ends a stream whose producer is lost; None if it has one, or has ended.

        *after* is the number that the reader is at; numbering goes on above both it and the
        log.  Raises NotFound and ReplayUnavailable, and so does ``Lost.end``.
        """

    @abstractmethod
    def close(self) -> None:
        """Write what is buffered, for a second or two at most, and free everything.

        Streams that have not ended are lost to their readers at once.
        """


def new_id() -> str:
    """Return a new stream id: 192 random bits, which tell neither count nor time."""
    return "strm_" + secrets.token_urlsafe(24)


def check_id(id: str) -> None:
    """Raise NotFound unless *id* could be a stream's."""
    if not _ID.fullmatch(id):
        raise not_found()


def not_found() -> NotFound:
    """Return the error for every stream that the caller may not know of."""
    return NotFound("There is no such stream.", code="stream_not_found")


def conflict() -> IdempotencyConflict:
    """Return the error for a key that was used before, with another body."""
    return IdempotencyConflict("The Idempotency-Key was used before, with another body.")


def gone(after: int, first: int) -> StreamGone:
    """Return the error for a reading *after* a frame that is before the window."""
    message = f"The stream's frames before {first} are no longer kept; {after + 1} was asked for."
    return StreamGone(message)
