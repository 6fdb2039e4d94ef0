"""One stream in this process's memory: its log, and the readings of it."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from . import base
from .base import READ_BYTES, Fenced, Reader, Writer
from .blocks import check_block, cut, last_frame
from .wake import Wake

if TYPE_CHECKING:
    from .memory import MemoryStore

# Frames are joined up to this size: an object for each would take more memory than its bytes.
_CHUNK = 16 * 1024
# Seconds between two looks of a reader for whom no descriptor is left.
_NAP = 0.05
# Bytes of an empty log, about, with its lock and its entries in the store's tables.
_OVERHEAD = 3072


class Log(Writer):
    """One stream: its frames, and who waits for more."""

    blocking = False

    def __init__(self, store: MemoryStore, owner: str, key: str | None, digest: str) -> None:
        self.id = base.new_id()
        self.owner = owner
        self.key = key
        self.digest = digest
        self.first = 1
        self.last = 0
        self.size = 0
        self.ended = False
        self.cancelled = False
        self.last_read = time.monotonic()
        self.expires = math.inf  # time.monotonic(), once ended
        self.lock = threading.Lock()
        self.readers: set[LogReader] = set()  # who waits for more
        # The store's, under its lock.
        self.counted = 0
        self.removed = False
        self._store = store
        self._limit = store.stream_bytes
        self._chunk = min(_CHUNK, self._limit // 4)
        self._chunks: deque[tuple[int, bytes]] = deque()  # (last number, frames)
        self._tail = bytearray()

    @property
    def cost(self) -> int:
        """The bytes of memory that the log takes, about."""
        return _OVERHEAD + len(self.key or "") + self.size

    def append(self, frames: bytes, count: int, *, end: bool = False, wait: bool = True) -> None:
        if self.ended:
            raise ValueError("the log has ended")
        check_block(frames, count, self.last)
        with self.lock:
            if self.removed:
                raise Fenced("the stream was deleted")
            self._add(frames, count)
            self.ended = end
            self._wake()
        self._store.account(self)

    def discard(self) -> None:
        self._store.drop(self)
        self.ended = True

    def fail(self, frames: bytes, count: int) -> None:
        self.append(frames, count, end=True)
        self._store.free_key(self)

    def clear(self) -> None:
        with self.lock:
            self.removed = True
            self._chunks.clear()
            self._tail = bytearray()
            self._wake()

    # The lock is held in all that follows.

    def _wake(self) -> None:
        for reader in self.readers:
            if reader.wake is not None:
                reader.wake.set()

    def _add(self, frames: bytes, count: int) -> None:
        self._tail += frames
        self.last += count
        self.size += len(frames)
        if len(self._tail) >= self._chunk:
            self._chunks.append((self.last, bytes(self._tail)))
            self._tail = bytearray()
        if self.size > self._limit:
            self.trim(self._limit)

    def trim(self, size: int) -> None:
        """Drop the oldest frames, a chunk at a time, so that at most *size* bytes are left."""
        while self.size > size and self._chunks:
            last, chunk = self._chunks.popleft()
            self.first = last + 1
            self.size -= len(chunk)
        if self.size > size:
            self._tail = bytearray()
            self.first, self.size = self.last + 1, 0

    def slice(self, after: int) -> tuple[int, bytes]:
        """Return the number of the last frame returned, and about READ_BYTES after *after*."""
        parts: list[bytes] = []
        size = 0
        for last, chunk in self._chunks:
            if last > after:
                parts.append(chunk if parts else cut(chunk, after))
                size += len(chunk)
                if size >= READ_BYTES:
                    return last, b"".join(parts)
        if self._tail:
            parts.append(bytes(self._tail) if parts else cut(self._tail, after))
        return self.last, b"".join(parts)

    def final(self) -> bytes:
        """Return the last frame, if it is still there."""
        return last_frame(bytes(self._tail) or (self._chunks[-1][1] if self._chunks else b""))


class LogReader(Reader):
    def __init__(self, log: Log, after: int) -> None:
        self.id = log.id
        self.last = after
        self.ended = False
        #: Set while there may be something; made when somebody waits.
        self.wake: Wake | None = None
        self._log = log
        self._waits = False
        self._closed = False

    def receive(self, timeout: float) -> bytes:
        log = self._log
        deadline = time.monotonic() + timeout
        while True:
            with log.lock:
                log.last_read = now = time.monotonic()
                frames = self._take()
                more = log.last > self.last or self.ended or self._closed
                self._waits = not (frames or more) and now < deadline
                if self.wake is not None and not more:
                    self.wake.clear()
                if not self._waits:
                    return frames
            if self.fileno() is None:
                time.sleep(min(deadline - now, _NAP))
            elif self.wake is not None:
                self.wake.wait(deadline - now)
            with log.lock:
                self._waits = False
                if self._closed:
                    self._free()

    def _take(self) -> bytes:
        log = self._log
        if self._closed or self.ended:
            return b""
        if log.removed:
            raise base.not_found()
        if self.last + 1 < log.first:
            raise base.gone(self.last, log.first)
        if log.last > self.last:
            self.last, frames = log.slice(self.last)
            self.ended = log.ended and self.last == log.last
            return frames
        self.ended = log.ended
        return log.final() if log.ended and self.last > log.last else b""

    def fileno(self) -> int | None:
        with self._log.lock:
            if self.wake is None and not self._closed:
                try:
                    self.wake = Wake()
                except OSError:  # no descriptor is left
                    return None
                self.wake.set()
                self._log.readers.add(self)
            return None if self.wake is None else self.wake.fileno()

    def close(self) -> None:
        with self._log.lock:
            self._closed = True
            if self.wake is not None:
                self.wake.set()
            if not self._waits:
                self._free()

    def _free(self) -> None:
        self._log.readers.discard(self)
        if self.wake is not None:
            self.wake.close()
            self.wake = None
