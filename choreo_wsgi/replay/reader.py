"""The reader of a shared store."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable

from ..errors import ProducerLost, ReplayUnavailable
from .backend import Backend, Block, Status, Write
from .base import Reader, gone
from .blocks import cut, last_frame
from .keeper import Keeper

# Seconds between two notes to the producer that somebody reads.
_SEE = 5.0
# How many writes, of at most so many bytes, are kept for a busy reader.  It fetches all others
# from the database.
_OFFERED = 8
_OFFERED_BYTES = 64 * 1024
# Seconds that an outage may last before readers are told.
_PATIENCE = 30.0


class Follower(Reader):
    """A reading of stream *id* behind frame *after*, which queries the database only when woken.

    After *follow* it is woken whenever the stream may have grown, until *unfollow*.
    """

    def __init__(
        self,
        keeper: Keeper,
        backend: Backend,
        id: str,
        after: int,
        status: Status,
        follow: Callable[[Follower], None],
        unfollow: Callable[[Follower], None],
    ) -> None:
        self.id = id
        self.last = after
        self.ended = False
        self._keeper = keeper
        self._unfollow = unfollow
        self._backend = backend
        self._owner = status.owner
        self._producer = status.producer
        self._offered: deque[Write] = deque(maxlen=_OFFERED)
        self._woken = threading.Event()
        self._woken.set()
        self._looked = -math.inf
        self._told = -math.inf
        self._away = 0.0  # since when the database is, 0 when it is not
        self._closed = False
        follow(self)

    def wake(self) -> None:
        """Make the reader look; called when its stream may have grown."""
        self._woken.set()

    def offer(self, write: Write) -> None:
        """Take a *write* of this process, so that it need not be fetched."""
        if sum(len(block.data) for block in write.blocks) <= _OFFERED_BYTES:
            self._offered.append(write)
        self._woken.set()

    def receive(self, timeout: float) -> bytes:
        deadline = time.monotonic() + timeout
        while not (self.ended or self._closed):
            if self._woken.is_set() or time.monotonic() >= self._looked + self._keeper.recheck:
                frames = self._look()
                if frames or self.ended:
                    return frames
            now = time.monotonic()
            if now >= deadline:
                return b""
            self._woken.wait(min(deadline, max(now, self._looked + self._keeper.recheck)) - now)
        return b""

    def close(self) -> None:
        self._closed = True
        self._woken.set()
        self._unfollow(self)

    def _look(self) -> bytes:
        # Cleared before the query, so that frames appended after it wake this reader again.
        self._woken.clear()
        self._looked = time.monotonic()
        try:
            frames = self._take_offered() or self._fetch()
            if self._looked >= self._told + _SEE and not self.ended:
                self._told = self._looked
                with contextlib.suppress(ReplayUnavailable):
                    self._keeper.see(self.id, self._producer)
            return frames
        except ReplayUnavailable:
            self._wait_out()
            return b""

    def _take_offered(self) -> bytes:
        parts: list[bytes] = []
        while self._offered and not self.ended:
            write = self._offered.popleft()
            for block in write.blocks:
                if block.first > self.last + 1:  # the database has what is in between
                    self._woken.set()
                    return b"".join(parts)
                if block.last > self.last:
                    parts.append(cut(block.data, self.last))
                    self.last = block.last
            self.ended = write.end and bool(parts) and self.last == write.last
        return b"".join(parts)

    def _fetch(self) -> bytes:
        found = self._keeper.ask(lambda: self._backend.fetch(self.id, self.last))
        if found is None:
            raise self._keeper.missing(self.id, self._owner)
        self._away = 0.0
        return self._take(*found)

    def _wait_out(self) -> None:
        now = time.monotonic()
        self._away = self._away or now
        if now - self._away > _PATIENCE or self._keeper.closing.is_set():
            raise ReplayUnavailable("The store of resumable streams is gone.", retry_after=5)

    def _take(self, status: Status, blocks: list[Block]) -> bytes:
        if self.last + 1 < status.first:
            raise gone(self.last, status.first)
        if blocks:
            return self._join(status, blocks)
        if self.last < status.last:
            raise gone(self.last, status.last + 1)  # the database evicted them
        if status.ended:
            frames = self._final(status) if self.last > status.last else b""
            self.ended = True
            return frames
        if self._keeper.is_lost(self.id, status):
            self._woken.set()
            raise ProducerLost("The server that was producing the stream is gone.")
        return b""

    def _join(self, status: Status, blocks: list[Block]) -> bytes:
        head = blocks[0]
        parts = [cut(head.data, self.last) if head.first <= self.last else head.data]
        parts += [block.data for block in blocks[1:]]
        self.last = blocks[-1].last
        if self.last < status.last:
            self._woken.set()  # there is more
        self.ended = status.ended and self.last >= status.last
        return b"".join(parts)

    def _final(self, status: Status) -> bytes:
        if not status.last:
            return b""
        found = self._keeper.ask(lambda: self._backend.fetch(self.id, status.last - 1))
        return last_frame(found[1][-1].data) if found and found[1] else b""
