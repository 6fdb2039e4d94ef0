"""One log in memory, and its readers."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import Protocol

from .base import READ_BYTES, Reader, Record, Writer, gone, new_id, not_found
from .blocks import check_block, cut, cut_size, last_frame

# Blocks are joined up to this size: the objects of many small blocks would take more
# memory than their bytes.
_CHUNK = 16 * 1024
#: What an empty log costs, about, with its lock.
OVERHEAD = 2048


class _Store(Protocol):
    stream_bytes: int

    def account(self, log: Log) -> None: ...

    def drop(self, log: Log) -> None: ...


class Log(Writer):
    """One stream: its frames, and who waits for more."""

    def __init__(self, store: _Store, owner: str, key: str | None, digest: str) -> None:
        self.id = new_id()
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
        self.changed = threading.Condition(threading.Lock())
        self.waiting = 0
        # The store's, under its lock.
        self.counted = 0
        self.removed = False
        self._store = store
        self._limit = store.stream_bytes
        self._chunk = min(_CHUNK, self._limit // 4)
        self._chunks: deque[tuple[int, bytes]] = deque()  # (last number, frames)
        self._tail = bytearray()

    def append(self, frames: bytes, count: int, *, end: bool = False, wait: bool = True) -> None:
        if self.ended:
            raise ValueError("the log has ended")
        check_block(frames, count, self.last)
        with self.changed:
            if not self.removed:
                self._add(frames, count)
            self.ended = end
            if self.waiting:
                self.changed.notify_all()
        self._store.account(self)

    def discard(self) -> None:
        self._store.drop(self)
        self.ended = True

    def record(self) -> Record:
        with self.changed:
            return Record(self.first, self.last, self.ended, self.cancelled)

    def clear(self) -> None:
        with self.changed:
            self.removed = True
            self._chunks.clear()
            self._tail = bytearray()
            self.changed.notify_all()

    # From here on the lock is held.

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
        """Drop the oldest frames so that at most *size* bytes are left."""
        while self.size > size and self._chunks:
            last, chunk = self._chunks.popleft()
            self.first = last + 1
            self.size -= len(chunk)
        if self.size > size:
            at, number = cut_size(self._tail, size)
            del self._tail[:at]
            self.first = number or self.last + 1
            self.size -= at

    def slice(self, after: int) -> tuple[int, bytes]:
        """Return about READ_BYTES of the frames that follow *after*, and the last's number."""
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
        self._log = log
        self._closed = False

    def receive(self, timeout: float) -> bytes:
        log = self._log
        with log.changed:
            if timeout > 0 and not self._ready():
                log.waiting += 1
                log.changed.wait_for(self._ready, timeout)
                log.waiting -= 1
            log.last_read = time.monotonic()
            return self._take()

    def _ready(self) -> bool:
        log = self._log
        return log.last > self.last or log.ended or log.removed or self._closed

    def _take(self) -> bytes:
        log = self._log
        if self._closed or self.ended:
            return b""
        if log.removed:
            raise not_found()
        if self.last + 1 < log.first:
            raise gone(self.last, log.first)
        if log.last > self.last:
            self.last, frames = log.slice(self.last)
            self.ended = log.ended and self.last == log.last
            return frames
        self.ended = log.ended
        return log.final() if log.ended and self.last > log.last else b""

    def close(self) -> None:
        self._closed = True
        with self._log.changed:
            self._log.changed.notify_all()
