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

# Seconds that an append waits for its frames to be written.
_PATIENCE = 0.05
# Small appends are joined up to this size while they wait.
_BLOCK = 16 * 1024


class Fenced(ProducerLost):
    """Somebody else ended or deleted the stream; frames of this writer are dropped."""


def check_block(frames: bytes, count: int, last: int) -> None:
    """Raise ValueError unless *frames* look like *count* frames that follow *last*."""
    if not count:
        if frames:
            raise ValueError("frames without a count")
    elif not (frames.startswith(b"id: %d\n" % (last + 1)) and frames.endswith(b"\n\n")):
        raise ValueError(f"not {count} whole frames from number {last + 1}")


class Writer:
    """The producer's end of stream *id* of *owner*.

    *last* is the number of the frame appended last.  *cancelled* turns true within about a
    second after ``Store.cancel``, wherever that was called: stop, append the error frame,
    end.  *last_read* is when (``time.monotonic``) the stream was last known to have a
    reader, or else was created; it may lag by a few seconds.  *ended* is whether the log
    was ended or discarded by this writer.  *blocking* is whether ``append`` may wait.
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
        self._done = threading.Event()
        self._fenced = False
        # Under the keeper's lock.
        self.size = 0  # bytes that wait to be written
        self._blocks: deque[Block] = deque()
        self._open = False  # whether the last block is not part of a Write and may grow
        self._written = 0
        self._end_written = False

    def append(self, frames: bytes, count: int, *, end: bool = False, wait: bool = True) -> None:
        """Append *count* whole *frames*, joined, numbered from ``last + 1``.

        Returns when they are in the log, in a shared database after at most 50 ms (0.05 s),
        in one that cannot be reached at once; then they may be sent to the client.
        ``wait=False`` never waits.  ``end=True`` ends the log with these frames.

        Raises Fenced when somebody else ended the log, ValueError for bytes that do not begin
        with the next number or do not end a frame, and when this writer has ended it.
        """
        if self.ended:
            raise ValueError("the log has ended")
        self._check_fence()
        check_block(frames, count, self.last)
        self._keeper.append(self, frames, count, end)
        deadline = time.monotonic() + _PATIENCE
        while wait and self._pending() and self._keeper.reachable:
            self._done.clear()
            left = deadline - time.monotonic()
            if left <= 0 or (self._pending() and not self._done.wait(left)):
                break
        self._check_fence()

    def _check_fence(self) -> None:
        if self._fenced:
            raise Fenced("Another server has ended the stream, or it was deleted.")

    def _pending(self) -> bool:
        behind = self._written < self.last or (self.ended and not self._end_written)
        return behind and not self._fenced

    def finish(self) -> None:
        """End the log with what it has; nothing happens when it has ended before."""
        if not self.ended:
            self.append(b"", 0, end=True)

    def discard(self) -> None:
        """Forget the stream and its idempotency key, as if it had never been created.

        Idempotent; readers get NotFound.
        """
        self.ended = True
        self._keeper.forget(self)

    def fail(self, frames: bytes, count: int) -> None:
        """End the log with *count* frames that hold an error, and free the idempotency key.

        For a request that failed before its first frame: callers that joined it by its key read
        the error, later requests with the key begin a new stream.
        """
        self.append(frames, count, end=True)
        self._keeper.free_key(self)

    # The keeper's lock is held in all that follows.

    def buffer(self, frames: bytes, count: int, end: bool) -> None:
        """Add *count* frames to those that wait, and drop the oldest if they are too many."""
        most = self._keeper.stream_bytes
        if count:
            block = Block(self.last + 1, self.last + count, frames)
            if self._open and len(self._blocks[-1].data) + len(frames) <= min(_BLOCK, most // 4):
                before = self._blocks.pop()
                block = Block(before.first, block.last, before.data + frames)
            self._blocks.append(block)
            self._open = True
            self._grow(len(frames))
            self.last += count
        self.ended = end
        while self.size > most:
            self.drop()

    def drop(self) -> None:
        """Drop the oldest block that waits."""
        self._grow(-len(self._blocks.popleft().data))
        self._open = self._open and bool(self._blocks)

    def _grow(self, size: int) -> None:
        self.size += size
        self._keeper.buffered += size

    def take(self) -> Write:
        """Return the buffered frames to write; they stay buffered until :meth:`written`."""
        self._open = False
        return Write(self.id, self.owner, tuple(self._blocks), self.last, self.ended)

    def written(self, write: Write) -> None:
        """Drop the frames of *write*, which is in the log."""
        while self._blocks and self._blocks[0].last <= write.last:
            self.drop()
        self._written = max(self._written, write.last)
        self._end_written = write.end
        self._done.set()

    def fence(self) -> None:
        """Drop all buffered frames and refuse more, as the stream was ended or deleted."""
        self._fenced = True
        while self._blocks:
            self.drop()
        self._done.set()
