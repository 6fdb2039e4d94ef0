"""Replay logs in this process's memory."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Literal

from ..errors import ConfigurationError
from ..settings import Settings
from .backend import READ_BYTES, Backend, Block, Status, Write

# Frames are joined up to this size, as an object for each would take more memory than its bytes.
_CHUNK = 16 * 1024
# Bytes of memory for an empty log, about, with its writer and its entries in the tables.
_OVERHEAD = 2900


class Log:
    """One stream."""

    def __init__(self, id: str, owner: str, key: str | None, digest: str, producer: str) -> None:
        self.id = id
        self.owner = owner
        self.key = key
        self.digest = digest
        self.producer = producer
        self.first = 1
        self.last = 0
        self.size = 0
        self.ended = False
        self.cancelled = False
        self.expires = math.inf  # time.monotonic(), once ended
        self.counted = 0  # its cost in the backend's size
        self._chunks: deque[Block] = deque()
        self._tail = bytearray()  # the newest frames, from number _tail_first
        self._tail_first = 1

    @property
    def cost(self) -> int:
        """The approximate number of bytes of memory that the log takes."""
        return _OVERHEAD + len(self.key or "") + self.size

    def add(self, write: Write, limit: int) -> None:
        """Append the blocks of *write*, and retain at most *limit* bytes."""
        enough = min(_CHUNK, limit // 4)
        for block in write.blocks:
            if len(block.data) >= enough:  # as it is, without a copy
                self._end_tail()
                self._chunks.append(block)
            else:
                self._tail_first = self._tail_first if self._tail else block.first
                self._tail += block.data
            self.last = block.last
            self.size += len(block.data)
            if len(self._tail) >= enough:
                self._end_tail()
        if write.last > self.last:  # a block larger than the limit was dropped
            self.last, limit = write.last, 0
        self.trim(limit)

    def _end_tail(self) -> None:
        if self._tail:
            self._chunks.append(Block(self._tail_first, self.last, bytes(self._tail)))
            self._tail = bytearray()

    def trim(self, size: int) -> None:
        """Drop the oldest frames, a chunk at a time, until at most *size* bytes remain."""
        while self.size > size and self._chunks:
            chunk = self._chunks.popleft()
            self.first = chunk.last + 1
            self.size -= len(chunk.data)
        if self.size > size or not size:
            self._tail = bytearray()
            self.first, self.size = self.last + 1, 0

    def read(self, after: int) -> list[Block]:
        """Return the blocks after frame *after*, of about READ_BYTES."""
        blocks: list[Block] = []
        size = 0
        for block in self._chunks:
            if block.last > after:
                blocks.append(block)
                size += len(block.data)
                if size >= READ_BYTES:
                    return blocks
        if self._tail and self.last > after:
            blocks.append(Block(self._tail_first, self.last, bytes(self._tail)))
        return blocks


class MemoryBackend(Backend):
    """Logs that live as long as the process; *url* is ``memory:``."""

    local = True

    def __init__(self, url: str, settings: Settings) -> None:
        if url not in ("memory:", "memory://"):
            raise ConfigurationError(f"replay: {url!r}: memory: takes no address")
        self.ttl = settings.replay_ttl_seconds
        self.stream_bytes = settings.replay_stream_bytes
        self.total_bytes = settings.replay_total_bytes
        self._lock = threading.Lock()
        self._logs: dict[str, Log] = {}
        self._keys: dict[tuple[str, str], Log] = {}
        self._ended: OrderedDict[str, Log] = OrderedDict()  # in the order of their expiry
        self.size = 0  # the cost of all logs in bytes

    def insert(
        self, id: str, owner: str, key: str | None, digest: str, producer: str
    ) -> tuple[str, str] | None:
        with self._lock:
            self._remove_expired()
            known = None if key is None else self._keys.get((owner, key))
            if known is not None:
                return known.id, known.digest
            self._logs[id] = log = Log(id, owner, key, digest, producer)
            if key is not None:
                self._keys[owner, key] = log
            self._account(log)
        return None

    def write(self, producer: str, writes: Sequence[Write]) -> list[bool]:
        with self._lock:
            return [self._append(write) for write in writes]

    def fetch(self, id: str, after: int | None) -> tuple[Status, list[Block]] | None:
        with self._lock:
            log = self._logs.get(id)
            if log is None or log.expires <= time.monotonic():
                return None
            numbers = (log.owner, log.first, log.last)
            status = Status(*numbers, log.ended, log.cancelled, log.producer, 0)
            return status, [] if after is None else log.read(after)

    def make_room(self, id: str, size: int) -> None:
        with self._lock:
            if (log := self._logs.get(id)) is not None:
                log.trim(max(self.stream_bytes - size, 0))
                self._count(log)

    def mark(self, id: str, mark: Literal["cancelled", "read"]) -> None:
        with self._lock:
            if (log := self._logs.get(id)) is not None and mark == "cancelled":
                log.cancelled |= not log.ended

    def delete(self, id: str) -> None:
        with self._lock:
            if id in self._logs:
                self._remove(self._logs[id])

    def free_key(self, id: str) -> None:
        with self._lock:
            if (log := self._logs.get(id)) is not None and log.key is not None:
                del self._keys[log.owner, log.key]
                log.key = None

    def sweep(self, lost: Callable[[str, int | None], bool]) -> None:
        with self._lock:
            self._remove_expired()

    def close(self) -> None:
        with self._lock:
            for log in list(self._logs.values()):
                self._remove(log)

    # The methods below are called with the lock held.

    def _append(self, write: Write) -> bool:
        log = self._logs.get(write.id)
        if log is None:
            return False
        log.add(write, self.stream_bytes)
        if write.end:
            log.ended = True
            log.expires = time.monotonic() + self.ttl
            self._ended[log.id] = log
        self._account(log)
        return True

    def _account(self, log: Log) -> None:
        """Update the cost of *log*; drop logs and frames if all together cost too much."""
        self._count(log)
        if self.size <= self.total_bytes:
            return
        # Free 10 % extra, so that the next append need not.
        goal = self.total_bytes * 9 // 10
        while self._ended and self.size > goal:
            self._remove(next(iter(self._ended.values())))
        for largest in sorted(self._logs.values(), key=lambda one: one.counted, reverse=True):
            if self.size <= goal:
                return
            largest.trim(largest.size // 2)
            self._count(largest)

    def _count(self, log: Log) -> None:
        self.size += log.cost - log.counted
        log.counted = log.cost

    def _remove_expired(self) -> None:
        now = time.monotonic()
        while self._ended and (log := next(iter(self._ended.values()))).expires <= now:
            self._remove(log)

    def _remove(self, log: Log) -> None:
        del self._logs[log.id]
        self._ended.pop(log.id, None)
        if log.key is not None:
            del self._keys[log.owner, log.key]
        self.size -= log.counted
