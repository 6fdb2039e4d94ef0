"""The reader of a shared store."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from ..errors import ProducerLost, ReplayUnavailable
from .backend import Block, Write
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
    """A reading of stream *id* of *owner* behind frame *after*.

    It queries the database only when woken.  *unfollow* is called when it is closed.
    """

    def __init__(
        self, keeper: Keeper, id: str, owner: str, after: int, unfollow: Callable[[Follower], None]
    ) -> None:
        self.id = id
        self.last = after
        self.ended = False
        self._keeper = keeper
        self._owner = owner
        self._unfollow = unfollow
        self._offered: deque[Write] = deque(maxlen=_OFFERED)
        self._woken = threading.Event()
        self._woken.set()
        self._looked = -math.inf
        self._told = -math.inf
        self._away = 0.0  # since when the database is, 0 when it is not
        self._closed = False

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
                    self._keeper.ask(lambda: self._keeper.backend.mark(self.id, "read"))
            return frames
        except ReplayUnavailable as error:
            self._away = self._away or self._looked
            if self._looked - self._away > _PATIENCE or self._keeper.closing.is_set():
                text = "The store of resumable streams is gone."
                raise ReplayUnavailable(text, retry_after=5) from error
            return b""

    def _take_offered(self) -> bytes:
        frames = b""
        while self._offered and not self.ended:
            write = self._offered.popleft()
            for block in write.blocks:
                if block.first > self.last + 1:  # the database has what is in between
                    self._woken.set()
                    return frames
                frames += self._rest([block])
            self.ended = write.end and bool(frames) and self.last == write.last
        return frames

    def _rest(self, blocks: Iterable[Block]) -> bytes:
        """Return the frames of *blocks* that come after the last one that was handed over."""
        parts = []
        for first, last, data in blocks:
            if last > self.last:
                parts.append(cut(data, self.last) if first <= self.last else data)
                self.last = last
        return b"".join(parts)

    def _fetch(self) -> bytes:
        fetch = self._keeper.backend.fetch
        found = self._keeper.ask(lambda: fetch(self.id, self.last))
        if found is None:
            raise self._keeper.missing(self.id, self._owner)
        self._away = 0.0
        status, blocks = found
        first = blocks[0].first if blocks else status.last + 1
        if self.last + 1 < status.first:
            raise gone(self.last, status.first)
        # What is missing was evicted by the database, but for frames that a producer lost.
        if self.last + 1 < first and (status.producer or not blocks):
            raise gone(self.last, first)
        frames = self._rest(blocks)
        if status.ended and self.last > status.last > 0:
            end = self._keeper.ask(lambda: fetch(self.id, status.last - 1))
            frames = last_frame(end[1][-1].data) if end and end[1] else b""
        self.ended = status.ended and self.last >= status.last
        if self.last < status.last:
            self._woken.set()  # there is more
        elif not (blocks or self.ended) and self._keeper.is_lost(self.id, status):
            self._woken.set()
            raise ProducerLost("The server that was producing the stream is gone.")
        return frames
