"""Replay logs in this process's memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from ..errors import ConfigurationError
from ..settings import Settings
from . import base
from .base import Claim, Lost, Reader, Store
from .log import Log, LogReader


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

    blocking = False

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
        with log.lock:
            log.cancelled = log.cancelled or not log.ended

    def delete(self, id: str, owner: str) -> None:
        self.drop(self._get(id, owner))

    def lost(self, id: str, owner: str, after: int = 0) -> Lost | None:
        # A log in memory never outlives its producer.
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
        """Update the memory that *log* takes, and drop logs when all take too much."""
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

    # The lock is held in all that follows.

    def _fit(self) -> None:
        # Free 10 % extra, so that the next append need not.
        goal = self.total_bytes * 9 // 10
        while self._ended and self.size > goal:
            self._remove(next(iter(self._ended.values())))
        if self.size <= goal:
            return
        for log in sorted(self._logs.values(), key=lambda log: log.counted, reverse=True):
            with log.lock:
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
