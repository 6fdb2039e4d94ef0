"""Replay logs in this process's memory."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque

from ..errors import ConfigurationError
from ..settings import Settings
from . import base
from .base import READ_BYTES, Claim, Fenced, Reader, Store, Writer
from .blocks import check_block, cut, cut_size, last_frame

# Blocks are joined up to this size: the objects of many small blocks would take more
# memory than their bytes.
_CHUNK = 16 * 1024
# What an empty log costs, about, with its lock and its places in the store's tables.
_OVERHEAD = 3072


def open_store(url: str, settings: Settings) -> MemoryStore:
    """Return an empty store; *url* is ``memory:``."""
    if url not in ("memory:", "memory://"):
        raise ConfigurationError(f"replay: {url!r}: memory: takes no address")
    return MemoryStore(
        ttl=settings.replay_ttl_seconds,
        stream_bytes=settings.replay_stream_bytes,
        total_bytes=settings.replay_total_bytes,
    )


class MemoryStore(Store):
    """Logs that live as long as the process; *ttl* is in seconds, sizes in bytes."""

    def __init__(self, *, ttl: float, stream_bytes: int, total_bytes: int) -> None:
        self.ttl = ttl
        self.stream_bytes = stream_bytes
        self.total_bytes = total_bytes
        # Taken before a log's own lock, never after it.
        self._lock = threading.Lock()
        self._logs: dict[str, Log] = {}
        self._keys: dict[tuple[str, str], Log] = {}
        self._ended: OrderedDict[str, Log] = OrderedDict()  # the first expires first
        self.size = 0  # bytes retained, with what the logs themselves cost
        self._closed = threading.Event()
        self._sweeper: threading.Thread | None = None

    def create(self, owner: str, *, key: str | None = None, digest: str = "") -> Claim:
        with self._lock:
            self._sweep()
            known = self._keys.get((owner, key)) if key is not None else None
            if known is not None:
                if known.digest != digest:
                    raise base.conflict()
                return Claim(known.id, None)
            log = Log(self, owner, key, digest)
            self._logs[log.id] = log
            if key is not None:
                self._keys[owner, key] = log
            if self._sweeper is None and not self._closed.is_set():
                # At the first use, not before: a server may fork after it made its store.
                self._sweeper = threading.Thread(target=self._run, name="replay", daemon=True)
                self._sweeper.start()
        self.account(log)
        return Claim(log.id, log)

    def read(self, id: str, owner: str, after: int = 0) -> Reader:
        log = self._get(id, owner)
        if after + 1 < log.first:
            raise base.gone(after, log.first)
        log.last_read = time.monotonic()
        return LogReader(log, after)

    def cancel(self, id: str, owner: str) -> None:
        log = self._get(id, owner)
        with log.changed:
            log.cancelled = log.cancelled or not log.ended

    def delete(self, id: str, owner: str) -> None:
        self.drop(self._get(id, owner))

    def take_over(self, id: str, owner: str, after: int = 0) -> Writer | None:
        # A log does not outlive its producer's process.
        self._get(id, owner)
        return None

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            for log in list(self._logs.values()):
                self._remove(log)
            sweeper, self._sweeper = self._sweeper, None
        if sweeper is not None:
            sweeper.join()

    def _get(self, id: str, owner: str) -> Log:
        log = self._logs.get(id)
        if log is None or log.owner != owner or (log.ended and log.expires <= time.monotonic()):
            raise base.not_found()
        return log

    def account(self, log: Log) -> None:
        """Count what *log* takes now, and let go of what is too much in all."""
        with self._lock:
            if log.removed:
                return
            size = log.cost
            self.size += size - log.counted
            log.counted = size
            if log.ended and log.id not in self._ended:
                log.expires = time.monotonic() + self.ttl
                self._ended[log.id] = log
            if self.size > self.total_bytes:
                self._fit()

    def free_key(self, log: Log) -> None:
        """Let the idempotency key of *log* name another stream."""
        with self._lock:
            if log.key is not None and not log.removed:
                del self._keys[log.owner, log.key]
                log.key = None

    def drop(self, log: Log) -> None:
        """Forget *log*; its readers get NotFound."""
        with self._lock:
            self._remove(log)

    # From here on the lock is held.

    def _fit(self) -> None:
        # By more than needed, so that it is not the next append's turn again.
        goal = self.total_bytes * 9 // 10
        while self._ended and self.size > goal:
            self._remove(next(iter(self._ended.values())))
        if self.size <= goal:
            return
        for log in sorted(self._logs.values(), key=lambda log: log.counted, reverse=True):
            with log.changed:
                log.trim(log.size // 2)
                size = log.cost
            self.size += size - log.counted
            log.counted = size
            if self.size <= goal:
                return

    def _sweep(self) -> None:
        now = time.monotonic()
        while self._ended:
            log = next(iter(self._ended.values()))
            if log.expires > now:
                return
            self._remove(log)

    def _remove(self, log: Log) -> None:
        if log.removed:
            return
        del self._logs[log.id]
        self._ended.pop(log.id, None)
        if log.key is not None:
            del self._keys[log.owner, log.key]
        self.size -= log.counted
        log.clear()

    def _run(self) -> None:
        while not self._closed.wait(min(1.0, self.ttl)):
            with self._lock:
                self._sweep()


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

    @property
    def cost(self) -> int:
        """The bytes of memory that it takes, about."""
        return _OVERHEAD + len(self.key or "") + self.size

    def append(self, frames: bytes, count: int, *, end: bool = False, wait: bool = True) -> None:
        if self.ended:
            raise ValueError("the log has ended")
        check_block(frames, count, self.last)
        with self.changed:
            if self.removed:
                raise Fenced("the stream was deleted")
            self._add(frames, count)
            self.ended = end
            if self.waiting:
                self.changed.notify_all()
        self._store.account(self)

    def discard(self) -> None:
        self._store.drop(self)
        self.ended = True

    def fail(self, frames: bytes, count: int) -> None:
        self.append(frames, count, end=True)
        self._store.free_key(self)

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
            raise base.not_found()
        if self.last + 1 < log.first:
            raise base.gone(self.last, log.first)
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
