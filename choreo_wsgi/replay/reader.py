"""The reader of a stream."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable, Iterable

from ..errors import ProducerLost, ReplayUnavailable, StreamGone
from .backend import Block
from .keeper import Keeper

# Seconds between two notes to the producer that somebody reads.
_SEE = 5.0
# Seconds that an outage may last before readers are told.
_PATIENCE = 30.0


def gone(after: int, first: int) -> StreamGone:
    """Return the error for a reading *after* a frame that is before the window."""
    message = f"The stream's frames before {first} are no longer kept; {after + 1} was asked for."
    return StreamGone(message)


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


class Wake:
    """A descriptor, readable from :meth:`set` to :meth:`clear`, for one thread at a time."""

    def __init__(self) -> None:
        # Not a pipe: Windows cannot wait for one.
        self._inside, self._outside = socket.socketpair()
        self._set = False
        self.fileno = self._inside.fileno

    def set(self) -> None:
        """Make the descriptor readable."""
        if not self._set:
            self._set = True
            self._outside.send(b"\1")

    def clear(self) -> None:
        """Make it unreadable."""
        if self._set:
            self._set = False
            self._inside.recv(1)

    def close(self) -> None:
        """Free the descriptor."""
        self._inside.close()
        self._outside.close()


class Reader:
    """A reading of stream *id* of *owner* behind frame *after*, in the manner of a source.

    *last* is the number of the frame handed over last (at first, *after*).  *ended* turns true
    with the last block of an ended log.  It queries the database only when woken.  *unfollow*
    is called when it is closed.
    """

    def __init__(
        self, keeper: Keeper, id: str, owner: str, after: int, unfollow: Callable[[Reader], None]
    ) -> None:
        self.id = id
        self.last = after
        self.ended = False
        self._keeper = keeper
        self._owner = owner
        self._unfollow = unfollow
        self._woken = threading.Event()
        self._woken.set()
        self._lock = threading.Lock()
        self._descriptor: Wake | None = None  # says the same, made when it is asked for
        self._looked = -math.inf
        self._told = -math.inf
        self._away = 0.0  # since when the database is, 0 when it is not
        self._closed = False

    def wake(self) -> None:
        """Make the reader look; called when its stream may have grown."""
        with self._lock:
            self._woken.set()
            if self._descriptor is not None:
                self._descriptor.set()

    def fileno(self) -> int | None:
        """Return the descriptor that turns readable when there may be more, or None."""
        with self._lock:
            if self._descriptor is None and self._keeper.backend.local and not self._closed:
                try:
                    self._descriptor = Wake()
                except OSError:
                    return None  # none is left
                if self._woken.is_set():
                    self._descriptor.set()
            return None if self._descriptor is None else self._descriptor.fileno()

    def receive(self, timeout: float) -> bytes:
        """Return the frames after *last*, joined; ``b""`` if none came in *timeout* seconds.

        A reader beyond the end of an ended log gets its last frame, so that it learns how
        the stream ended.  Raises StreamGone when the window has moved past *last*,
        NotFound when the stream expired or was discarded, ProducerLost when all is
        read and the producer is lost, ReplayUnavailable when the store cannot be reached
        for long (a short outage is a silence).  The first call never waits when there is
        something to hand over.
        """
        deadline = time.monotonic() + timeout
        if (writer := self._keeper.writers.get(self.id)) is not None:
            writer.last_read = time.monotonic()
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
        """Free the reader; a ``receive`` in another thread returns soon."""
        self._closed = True
        self.wake()
        with self._lock:
            if self._descriptor is not None:
                self._descriptor.close()
                self._descriptor = None
        self._unfollow(self)

    def _look(self) -> bytes:
        # Cleared before the query, so that frames appended after it wake this reader again.
        with self._lock:
            self._woken.clear()
            if self._descriptor is not None:
                self._descriptor.clear()
        self._looked = time.monotonic()
        try:
            frames = self._fetch()
            is_ours = self.id in self._keeper.writers
            if self._looked >= self._told + _SEE and not (self.ended or is_ours):
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
            self.wake()  # there is more
        elif not (blocks or self.ended) and self._keeper.is_lost(self.id, status):
            self.wake()
            raise ProducerLost("The server that was producing the stream is gone.")
        return frames
