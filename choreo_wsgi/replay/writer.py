"""The writer of a stream: it buffers frames until the keeper has written them."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from ..errors import ProducerLost
from .backend import Block, Write

if TYPE_CHECKING:
    from .keeper import Keeper

# Seconds that an append waits until its frames are written.
_APPEND_TIMEOUT = 0.05
# The same for this many bytes, so that not all long events of an answer are in memory at once.
_LARGE, _LARGE_TIMEOUT = 256 * 1024, 1.0
# Small buffered appends are joined up to this size.
_BLOCK_BYTES = 16 * 1024


class Fenced(ProducerLost):
    """Another process ended or deleted the stream; this writer's frames are dropped."""


def check_block(frames: bytes, count: int, last: int) -> None:
    """Raise ValueError unless *frames* look like *count* frames that follow *last*."""
    if not count:
        if frames:
            raise ValueError("frames without a count")
    elif not (frames.startswith(b"id: %d\n" % (last + 1)) and frames.endswith(b"\n\n")):
        raise ValueError(f"not {count} whole frames from number {last + 1}")


class Writer:
    """The producer's end of stream *id* of *owner*.

    *last* is the number of the last frame appended.  *cancelled* becomes true within about a
    second after ``Store.cancel`` in any process: stop, append the error frame, and end.
    *last_read* is when (``time.monotonic``) the stream was last known to have a reader,
    initially its creation; it may lag by a few seconds.  *ended* is whether this writer ended or
    discarded the log.  *blocking* is whether ``append`` may wait.
    """

    def __init__(self, keeper: Keeper, id: str, owner: str) -> None:
        self.id = id
        self.owner = owner
        self.last = 0
        self.cancelled = False
        self.ended = False
        self.last_read = time.monotonic()
        self.blocking = not keeper.backend.local
        self._keeper = keeper
        self._progress = threading.Event()
        self._fenced = False
        # Guarded by the keeper's lock.
        self.size = 0  # bytes buffered
        self._blocks: deque[Block] = deque()
        self._can_extend = False  # whether the last block may grow: it is not part of a Write
        self._written = 0  # the number of the last frame in the log
        self._end_written = False

    def make_room(self, size: int) -> None:
        """Free the memory of what an append of *size* bytes will push out of the log."""
        self._keeper.backend.make_room(self.id, size)

    def reserve(self, size: int) -> None:
        """Keep up to half of the log's memory free for a last frame of *size* bytes."""
        self.make_room(min(size, self._keeper.stream_bytes // 2))

    def append(self, frames: bytes, count: int, *, end: bool = False, wait: bool = True) -> None:
        """Append *count* whole *frames*, joined, numbered from ``last + 1``.

        Returns when they are in the log and may be sent to the client: if the database is shared,
        after at most 50 ms (0.05 s), or a second for large ones, even if they are not; during an
        outage at once.
        ``wait=False`` never waits.  ``end=True`` ends the log with these frames.

        Raises Fenced if another process ended the log, and ValueError if this writer has ended
        it, or for bytes that do not begin with the next number or do not end a frame.
        """
        if self.ended:
            raise ValueError("the log has ended")
        check_block(frames, count, self.last)
        self._keeper.append(self, frames, count, end)
        if wait:
            self.flush(_APPEND_TIMEOUT if len(frames) < _LARGE else _LARGE_TIMEOUT)
        if self._fenced:
            raise Fenced("Another server has ended the stream, or it was deleted.")

    def flush(self, timeout: float) -> None:
        """Wait until the log has all frames, at most *timeout* seconds; not in an outage."""
        deadline = time.monotonic() + timeout
        while self._pending() and self._keeper.reachable:
            self._progress.clear()
            remaining = deadline - time.monotonic()
            if remaining <= 0 or (self._pending() and not self._progress.wait(remaining)):
                break

    def _pending(self) -> bool:
        behind = self._written < self.last or (self.ended and not self._end_written)
        return behind and not self._fenced

    def discard(self) -> None:
        """Delete the stream, and free its idempotency key; readers get NotFound.  Idempotent."""
        self.ended = True
        self._keeper.discard(self)

    def fail(self, frames: bytes, count: int) -> None:
        """End the log with *count* frames that hold an error, and free the idempotency key.

        For a request that failed before its first frame: callers that joined it by its key read
        the error; later requests with the key start a new stream.
        """
        self.append(frames, count, end=True)
        self._keeper.free_key(self)

    # The methods below are called with the keeper's lock held.

    def buffer(self, frames: bytes, count: int, end: bool) -> None:
        """Add *count* frames to the buffer, and drop the oldest blocks if it is too large."""
        limit = self._keeper.stream_bytes
        if count:
            block = Block(self.last + 1, self.last + count, frames)
            block_bytes = min(_BLOCK_BYTES, limit // 4)
            if self._can_extend and len(self._blocks[-1].data) + len(frames) <= block_bytes:
                before = self._blocks.pop()
                block = Block(before.first, block.last, before.data + frames)
            self._blocks.append(block)
            self._can_extend = True
            self._grow(len(frames))
            self.last += count
        self.ended = end
        while self.size > limit:
            self.drop()

    def drop(self) -> None:
        """Drop the oldest buffered block."""
        self._grow(-len(self._blocks.popleft().data))
        self._can_extend = self._can_extend and bool(self._blocks)

    def _grow(self, size: int) -> None:
        self.size += size
        self._keeper.buffered += size

    def pending_write(self) -> Write:
        """Return the buffered frames to write; :meth:`mark_written` removes them later."""
        self._can_extend = False
        return Write(self.id, self.owner, tuple(self._blocks), self.last, self.ended)

    def mark_written(self, write: Write) -> None:
        """Drop the frames of *write*, which is in the log."""
        while self._blocks and self._blocks[0].last <= write.last:
            self.drop()
        self._written = write.last
        self._end_written = write.end
        self._progress.set()

    def fence(self) -> None:
        """Drop all buffered frames and refuse more, as the stream was ended or deleted."""
        self._fenced = True
        while self._blocks:
            self.drop()
        self._progress.set()
