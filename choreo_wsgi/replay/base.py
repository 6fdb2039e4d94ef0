"""The rules of the replay logs, and what all parts of the store need.

A :class:`~choreo_wsgi.replay.store.Store` holds the frames of resumable streams.  Each stream has
one :class:`~choreo_wsgi.replay.writer.Writer` at a time, its producer, and any number of
:class:`~choreo_wsgi.replay.reader.Reader`.

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
  One of those who ask ``Store.lost`` then ends the log; the writer, if it still runs, gets
  :class:`Fenced`.
* While the database cannot be reached, ``append`` fills a bounded buffer, which is written when
  it is back; all other calls raise :class:`~choreo_wsgi.errors.ReplayUnavailable`.

All methods may be called from any thread; one Writer or Reader only from one at a time,
except ``Reader.close()``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import NotFound, ProducerLost, StreamGone

if TYPE_CHECKING:
    from .writer import Writer

#: About how much a reader hands over at once: enough to be efficient, little enough that
#: a thousand replays at the same time are not a thousand whole logs in memory.
READ_BYTES = 256 * 1024


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


def not_found() -> NotFound:
    """Return the error for every stream that the caller may not know of."""
    return NotFound("There is no such stream.", code="stream_not_found")


def gone(after: int, first: int) -> StreamGone:
    """Return the error for a reading *after* a frame that is before the window."""
    message = f"The stream's frames before {first} are no longer kept; {after + 1} was asked for."
    return StreamGone(message)


def check_block(frames: bytes, count: int, last: int) -> None:
    """Raise ValueError unless *frames* look like *count* frames that follow *last*."""
    if not count:
        if frames:
            raise ValueError("frames without a count")
    elif not (frames.startswith(b"id: %d\n" % (last + 1)) and frames.endswith(b"\n\n")):
        raise ValueError(f"not {count} whole frames from number {last + 1}")


def cut(block: bytes, after: int) -> bytes:
    """Return what follows frame *after* in *block*, which holds the frame after it.

    Blocks are cut only where a reading begins inside one.  A number is found by its line at the
    start of a frame.  It cannot occur elsewhere: data is one line, and so a blank line only ever
    ends a frame.
    """
    line = b"id: %d\n" % (after + 1)
    if block.startswith(line):
        return block
    # From the end: who follows a stream live is nearly there.
    at = block.rfind(b"\n\n" + line)
    return block[at + 2 :] if at >= 0 else b""


def last_frame(block: bytes) -> bytes:
    """Return the last frame of *block*."""
    at = block.rfind(b"\n\nid: ", 0, -2)
    return block[at + 2 :] if at >= 0 else block
