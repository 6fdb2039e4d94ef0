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

# Seconds between two marks for the producer that its stream is read.
_MARK_EVERY = 5.0
# Seconds that an outage may last before a reader raises ReplayUnavailable.
_MAX_OUTAGE = 30.0


def frames_dropped(after: int, first: int) -> StreamGone:
    """Return the error for a read *after* a frame when the log only has frames from *first*."""
    text = f"Frame {after + 1} of the stream was requested, but those before {first} are dropped."
    return StreamGone(text)


def frames_after(block: bytes, after: int) -> bytes:
    """Return the frames after frame *after* in *block*, which holds the next one.

    Blocks are cut only when a reader starts inside one.  The next frame is found by its ``id``
    line after a blank line.  These bytes cannot occur inside a frame: its data is one line, so a
    blank line always ends a frame.
    """
    line = b"id: %d\n" % (after + 1)
    if block.startswith(line):
        return block
    # Searched from the end, as a reader that follows a live stream is near it.
    at = block.rfind(b"\n\n" + line)
    return block[at + 2 :] if at >= 0 else b""


def last_frame(block: bytes) -> bytes:
    """Return the last frame of *block*."""
    at = block.rfind(b"\n\nid: ", 0, -2)
    return block[at + 2 :] if at >= 0 else block


class Wake:
    """A descriptor, readable from :meth:`set` to :meth:`clear`, for one thread at a time."""

    def __init__(self) -> None:
        # Not a pipe: Windows cannot poll one.
        self._inside, self._outside = socket.socketpair()
        self._set = False
        self.fileno = self._inside.fileno

    def set(self) -> None:
        """Make the descriptor readable."""
        if not self._set:
            self._set = True
            self._outside.send(b"\1")

    def clear(self) -> None:
        """Make the descriptor unreadable."""
        if self._set:
            self._set = False
            self._inside.recv(1)

    def close(self) -> None:
        """Free the descriptor."""
        self._inside.close()
        self._outside.close()


class Reader:
    """Reads stream *id* of *owner* after frame *after*; it has the methods of a source.

    *last* is the number of the last frame returned (initially *after*).  *ended* becomes true
    with the last block of an ended log.  A reader queries the database when it is woken, and
    every few seconds.  *on_close* is called when it is closed.
    """

    def __init__(
        self, keeper: Keeper, id: str, owner: str, after: int, on_close: Callable[[Reader], None]
    ) -> None:
        self.id = id
        self.last = after
        self.ended = False
        self._keeper = keeper
        self._owner = owner
        self._on_close = on_close
        self._woken = threading.Event()
        self._woken.set()
        self._lock = threading.Lock()
        self._descriptor: Wake | None = None  # readable while _woken is set; created on demand
        self._queried_at = -math.inf
        self._marked_at = -math.inf
        self._down_since = 0.0  # when the outage of the database began; 0 without one
        self._closed = False

    def wake(self) -> None:
        """Make the reader query the database; called when its stream may have grown."""
        with self._lock:
            self._woken.set()
            if self._descriptor is not None:
                self._descriptor.set()

    def fileno(self) -> int | None:
        """Return the descriptor that becomes readable when there may be more, or None."""
        with self._lock:
            if self._descriptor is None and self._keeper.backend.local and not self._closed:
                try:
                    self._descriptor = Wake()
                except OSError:
                    return None  # the process has no free descriptor
                if self._woken.is_set():
                    self._descriptor.set()
            return None if self._descriptor is None else self._descriptor.fileno()

    def receive(self, timeout: float) -> bytes:
        """Return the frames after *last*, joined; ``b""`` if none arrive in *timeout* seconds.

        A reader beyond the end of an ended log gets its last frame, which shows how the stream
        ended.  Raises StreamGone if the frame after *last* was dropped, NotFound if the stream
        expired or was discarded, ProducerLost if everything was read and the producer is lost,
        and ReplayUnavailable if an outage of the store lasts long (in a short one it returns
        ``b""``).  The first call does not wait if there are frames.
        """
        deadline = time.monotonic() + timeout
        if (writer := self._keeper.writers.get(self.id)) is not None:
            writer.last_read = time.monotonic()
        while not (self.ended or self._closed):
            if self._woken.is_set() or time.monotonic() >= self._queried_at + self._keeper.recheck:
                frames = self._poll()
                if frames or self.ended:
                    return frames
            now = time.monotonic()
            if now >= deadline:
                return b""
            self._woken.wait(min(deadline, max(now, self._queried_at + self._keeper.recheck)) - now)
        return b""

    def close(self) -> None:
        """Free the reader; a ``receive`` in another thread returns soon."""
        self._closed = True
        self.wake()
        with self._lock:
            if self._descriptor is not None:
                self._descriptor.close()
                self._descriptor = None
        self._on_close(self)

    def _poll(self) -> bytes:
        # Cleared before the query, so that frames appended after it wake this reader again.
        with self._lock:
            self._woken.clear()
            if self._descriptor is not None:
                self._descriptor.clear()
        self._queried_at = time.monotonic()
        try:
            frames = self._fetch()
            is_ours = self.id in self._keeper.writers
            if self._queried_at >= self._marked_at + _MARK_EVERY and not (self.ended or is_ours):
                self._marked_at = self._queried_at
                with contextlib.suppress(ReplayUnavailable):
                    self._keeper.query(lambda: self._keeper.backend.mark(self.id, "read"))
            return frames
        except ReplayUnavailable as error:
            self._down_since = self._down_since or self._queried_at
            if self._queried_at - self._down_since > _MAX_OUTAGE or self._keeper.closing.is_set():
                text = "The store of resumable streams has been unreachable for too long."
                raise ReplayUnavailable(text, retry_after=5) from error
            return b""

    def _unread(self, blocks: Iterable[Block]) -> bytes:
        """Return the frames of *blocks* after the last one returned, and count them as returned."""
        parts = []
        for first, last, data in blocks:
            if last > self.last:
                parts.append(frames_after(data, self.last) if first <= self.last else data)
                self.last = last
        return b"".join(parts)

    def _fetch(self) -> bytes:
        fetch = self._keeper.backend.fetch
        found = self._keeper.query(lambda: fetch(self.id, self.last))
        if found is None:
            raise self._keeper.missing_error(self.id, self._owner)
        self._down_since = 0.0
        status, blocks = found
        first = blocks[0].first if blocks else status.last + 1
        if self.last + 1 < status.first:
            raise frames_dropped(self.last, status.first)
        # Missing frames were evicted by the database, unless a lost producer never wrote them.
        if self.last + 1 < first and (status.producer or not blocks):
            raise frames_dropped(self.last, first)
        frames = self._unread(blocks)
        if status.ended and self.last > status.last > 0:
            end = self._keeper.query(lambda: fetch(self.id, status.last - 1))
            frames = last_frame(end[1][-1].data) if end and end[1] else b""
        self.ended = status.ended and self.last >= status.last
        if self.last < status.last:
            self.wake()  # the log has more
        elif not (blocks or self.ended) and self._keeper.is_lost(status.producer, status.beat):
            self.wake()
            raise ProducerLost("The server that was producing the stream is gone.")
        return frames
