"""The writer of a shared store: it buffers frames until the keeper has written them."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from .backend import Block, Identity, Write
from .base import Fenced, Writer
from .blocks import check_block

if TYPE_CHECKING:
    from .keeper import Keeper

# Seconds that an append waits for its frames to be written.
_PATIENCE = 0.05
# Small appends are joined up to this size while they wait.
_BLOCK = 16 * 1024
_FENCED = "Another server has ended the stream, or it was deleted."


class BufferedWriter(Writer):
    """The producer's end of the stream *identity*."""

    def __init__(self, keeper: Keeper, identity: Identity) -> None:
        self.id = identity.id
        self.identity = identity
        self.last = 0
        self.cancelled = False
        self.ended = False
        self.discarded = False
        self.last_read = time.monotonic()
        self._keeper = keeper
        self._done = threading.Event()
        self._fenced = False
        # Under the keeper's lock.
        self._previous = 0  # number of the last frame in the log or in a block
        self._written = 0
        self._end_written = False
        self._blocks: deque[Block] = deque()
        self._fresh: list[bytes] = []  # not yet a block, so never part of a Write
        self._fresh_size = 0
        self._size = 0

    def append(self, frames: bytes, count: int, *, end: bool = False, wait: bool = True) -> None:
        if self._fenced:
            raise Fenced(_FENCED)
        if self.ended:
            raise ValueError("the log has ended")
        check_block(frames, count, self.last)
        self._keeper.append(self, lambda: self._add(frames, count, end))
        if wait:
            self._wait()

    def discard(self) -> None:
        if not self.discarded:
            self.ended = self.discarded = True
            self._keeper.forget(self)

    def fail(self, frames: bytes, count: int) -> None:
        self.append(frames, count, end=True)
        self._keeper.free_key(self)

    def bare(self) -> Identity:
        """Return the identity without its key, which may name another stream by now."""
        return dataclasses.replace(self.identity, key=None)

    def _wait(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while self._pending() and self._keeper.reachable:
            self._done.clear()
            left = deadline - time.monotonic()
            if left <= 0 or (self._pending() and not self._done.wait(left)):
                break
        if self._fenced:
            raise Fenced(_FENCED)

    def _pending(self) -> bool:
        behind = self._written < self.last or (self.ended and not self._end_written)
        return behind and not self._fenced and not self.discarded

    # The keeper's lock is held in all that follows.  Sizes are returned for its account.

    def _add(self, frames: bytes, count: int, end: bool) -> int:
        before = self._size
        if self._fresh_size + len(frames) > min(_BLOCK, self._keeper.stream_bytes // 4):
            self._seal()
        if count:
            self._fresh.append(frames)
            self._fresh_size += len(frames)
            self._size += len(frames)
            self.last += count
        self.ended = end
        while self._size > self._keeper.stream_bytes:
            self.drop()
        return self._size - before

    @property
    def size(self) -> int:
        """How many bytes wait to be written."""
        return self._size

    def drop(self) -> int:
        """Drop the oldest frames that wait; return the bytes freed."""
        if not self._blocks:
            self._seal()
        freed = len(self._blocks.popleft().data) if self._blocks else self._size
        self._size -= freed
        return freed

    def _seal(self) -> None:
        if self._fresh:
            data = b"".join(self._fresh)
            self._blocks.append(Block(self._previous, self._previous + 1, self.last, data))
            self._previous = self.last
            self._fresh = []
            self._fresh_size = 0

    def take(self) -> Write:
        """Return the buffered frames to write; they stay buffered until :meth:`written`."""
        self._seal()
        return Write(self.id, tuple(self._blocks), self._previous, self.ended)

    def written(self, write: Write) -> int:
        """Drop the frames of *write*, which is in the log; return the bytes freed."""
        last = write.last
        size = 0
        while self._blocks and self._blocks[0].last <= last:
            size += len(self._blocks.popleft().data)
        self._size -= size
        self._written = max(self._written, last)
        self._end_written = write.end
        self._done.set()
        return size

    def fence(self) -> int:
        """Refuse all further frames, as the stream was ended; return the bytes freed."""
        self._fenced = True
        return self.clear()

    def clear(self) -> int:
        """Drop all buffered frames; return the bytes freed."""
        size = self._size
        self._blocks.clear()
        self._fresh = []
        self._fresh_size = self._size = 0
        self._done.set()
        return size
