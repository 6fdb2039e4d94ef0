"""The keeper: the thread that writes the frames of all streams of a process to the database.

It writes many streams at once, renews the lease, receives cancellations, and detects when the
database becomes unreachable and reachable again.

Each round of its loop (:meth:`Keeper._run`) renews the lease if a beat is due, sweeps the database
if that is due, waits for frames until the next beat, and writes the frames of all dirty writers
in one call.  While the database is unreachable, frames stay in the writers' buffers; the first
beat that succeeds ends the outage.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from ..errors import ChoreoError, NotFound, ReplayUnavailable
from .backend import Backend, LeaseObserver, Unreachable
from .writer import Writer

T = TypeVar("T")
logger = logging.getLogger(__name__)

# Seconds to collect frames while several streams write: of 200 streams with 20 frames a second
# each, 20 streams then share a transaction.
_GATHER_SECONDS = 0.005
_SWEEP_INTERVAL = 2.0
_CLOSE_TIMEOUT = 2.0
# Seconds in which producers restore their streams to a database that lost its data.
_RESTORE_SECONDS = 10.0


def not_found() -> NotFound:
    """Return the error for a stream that does not exist or belongs to another caller."""
    return NotFound("There is no such stream.", code="stream_not_found")


class Keeper:
    """Writes to *backend* and queries it.

    During an outage at most *stream_bytes* of one stream and *buffer_bytes* of all streams are
    buffered.  *lease* and *beat* are in seconds.  *wake* is called with the ids of the streams
    that have grown, and with None when an outage ends.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        stream_bytes: int,
        buffer_bytes: int,
        lease: float,
        beat: float,
        wake: Callable[[Iterable[str] | None], None],
    ) -> None:
        self.stream_bytes = stream_bytes
        self.buffered = 0
        self.reachable = True
        self.beat = beat
        #: Seconds after which a reader polls without being woken, as its producer may be lost.
        self.recheck = min(2.0, lease / 2)
        self.producer = ""  # the name of this process, once the keeper runs
        self.closing = threading.Event()
        self.backend = backend
        self.writers: dict[str, Writer] = {}
        self._buffer_bytes = buffer_bytes
        self._wake = wake
        self._observer = LeaseObserver(lease)
        self._has_lease = False
        self._data_lost_at = -math.inf  # when the database was last found to have lost its data
        self._to_delete: dict[str, None] = {}  # ids of streams, deleted at the next beats
        self._dirty: dict[str, Writer] = {}  # the writers with frames to write, or an end
        # Its lock guards the writers and their buffers; the keeper waits on it for frames.
        self._work = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None

    def query(self, operation: Callable[[], T]) -> T:
        """Return the result of *operation*; raises ReplayUnavailable, in a known outage at once."""
        self._start()
        if self.reachable:
            try:
                return operation()
            except Unreachable as error:
                self._mark_unreachable(error)
        raise ReplayUnavailable("The store of resumable streams cannot be reached.", retry_after=1)

    def is_lost(self, producer: str, beat: int | None) -> bool:
        """Return whether *producer*, whose *beat* was just fetched, is lost."""
        return producer != self.producer and self._observer.lost(producer, beat)

    def own_writer(self, id: str, owner: str) -> Writer | None:
        """Return the writer of stream *id* of *owner*, if this process has it."""
        writer = self.writers.get(id)
        return writer if writer is not None and writer.owner == owner else None

    def missing_error(self, id: str, owner: str) -> ChoreoError:
        """Return the error for a stream that is not in the database."""
        if self.own_writer(id, owner) is None:
            lost_data = time.monotonic() - self._data_lost_at < _RESTORE_SECONDS or (
                self._has_lease and not self.query(lambda: self.backend.has_lease(self.producer))
            )
            if not lost_data:
                return not_found()
        # The stream was created during an outage, or the database lost it: its producer will
        # insert it again with the frames that are still buffered.
        return ReplayUnavailable("The stream is not stored yet.", retry_after=1)

    def register(self, writer: Writer) -> Writer:
        """Write the frames of *writer* from now on, until its end; return it."""
        with self._work:
            self.writers[writer.id] = writer
        return writer

    def append(self, writer: Writer, frames: bytes, count: int, end: bool) -> None:
        """Add *count* frames to *writer*'s buffer, to be written soon; at once if local."""
        with self._work:
            if writer.id not in self.writers:
                return  # fenced meanwhile
            writer.buffer(frames, count, end)
            if not self.backend.local:
                self._dirty[writer.id] = writer
                self._work.notify()
            if self.buffered > self._buffer_bytes:
                # From the largest buffers first: a small one may hold the end of a stream.
                while self.buffered > self._buffer_bytes * 9 // 10:
                    max(self.writers.values(), key=lambda one: one.size).drop()
        if self.backend.local:
            self._write([writer])

    def discard(self, writer: Writer) -> None:
        """Delete the stream of *writer*, whose next append raises Fenced."""
        with self._work:
            self._remove(writer)
            writer.fence()
        self._now_or_delete_later(self.backend.delete, writer.id)
        self._wake([writer.id])

    def free_key(self, writer: Writer) -> None:
        """Free the key of *writer*'s stream for another stream."""
        self._now_or_delete_later(self.backend.free_key, writer.id)

    def _now_or_delete_later(self, do: Callable[[str], None], id: str) -> None:
        """Call *do* with the stream *id*; if it fails, delete the stream after the outage."""
        try:
            self.query(lambda: do(id))
        except ReplayUnavailable:
            self.delete_later(id)

    def delete_later(self, id: str) -> None:
        """Delete the stream *id*, if it exists, at one of the next beats."""
        self._to_delete[id] = None

    def close(self) -> None:
        """Write the buffered frames, for at most two seconds, and release the lease."""
        with self._work:
            self.closing.set()
            self._work.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        self.reachable = False

    def _start(self) -> None:
        # At the first use, not earlier: a server may fork after it creates its store.
        if self._thread is not None:
            return
        with self._work:
            if self._thread is None and not self.closing.is_set():
                self.producer = secrets.token_hex(12)
                self._thread = threading.Thread(
                    target=self._run, name="choreo-replay-keeper", daemon=True
                )
                self._thread.start()

    def _mark_unreachable(self, error: Unreachable) -> None:
        with self._work:
            was, self.reachable = self.reachable, False
        if was:
            logger.warning("the replay store cannot be reached: %s", error)

    def _mark_reachable(self) -> None:
        self._observer.reset()
        with self._work:
            self.reachable = True
        logger.warning("the replay store is back")
        self._wake(None)

    def _remove(self, writer: Writer) -> None:
        self._dirty.pop(writer.id, None)
        self.writers.pop(writer.id, None)

    # All that follows runs in the keeper's thread; _write also in append's if local.

    def _run(self) -> None:
        next_beat = last_sweep = 0.0
        batch = 0
        while not self.closing.is_set():
            now = time.monotonic()
            try:
                if now >= next_beat:
                    next_beat = now + self.beat
                    self._renew()
                if now >= last_sweep + _SWEEP_INTERVAL and self.reachable:
                    last_sweep = now
                    self.backend.sweep(self.is_lost)
                with self._work:
                    self._work.wait_for(self._has_work, max(0.0, next_beat - time.monotonic()))
                if batch > 1:
                    self.closing.wait(_GATHER_SECONDS)
                batch = self._flush() if self.reachable else 0
            except Unreachable as error:
                self._mark_unreachable(error)
            except Exception as error:
                # A bug must not end the thread, as all streams depend on it.
                logger.exception("the keeper of the replay store failed")
                self._mark_unreachable(Unreachable(str(error)))
        self._shut_down()

    def _has_work(self) -> bool:
        return self.closing.is_set() or (self.reachable and bool(self._dirty))

    def _renew(self) -> None:
        with self._work:
            running = list(self.writers)
        beat = self.backend.beat(self.producer, running)
        if beat.fresh and self._has_lease:
            # The database lost its data: insert the running streams again.
            self._data_lost_at = time.monotonic()
            with self._work:
                self._dirty.update(self.writers)
        self._has_lease = True
        until = time.monotonic() + self.beat  # deleting all may take longer than the lease
        for id in list(self._to_delete):
            self.backend.delete(id)
            del self._to_delete[id]
            if time.monotonic() >= until:
                break
        if not self.reachable:
            self._mark_reachable()
        with self._work:
            for id in beat.cancelled:
                if id in self.writers:
                    self.writers[id].cancelled = True
            for id in beat.read:
                if id in self.writers:
                    self.writers[id].last_read = time.monotonic()

    def _flush(self) -> int:
        """Write the buffered frames; return the number of streams that had any."""
        with self._work:
            writers = list(self._dirty.values())
            self._dirty.clear()
        if writers:
            self._write(writers)
        return len(writers)

    def _write(self, writers: Sequence[Writer]) -> None:
        with self._work:
            writes = [writer.pending_write() for writer in writers]
        done: Sequence[bool | None] = [None] * len(writes)  # None: unknown, so it is repeated
        written: list[str] = []
        try:
            done = self.backend.write(self.producer, writes)
        finally:
            with self._work:
                for writer, write, is_done in zip(writers, writes, done, strict=True):
                    if writer.id not in self.writers:
                        # Deleted meanwhile, and perhaps created again by this write.
                        self.delete_later(writer.id)
                    elif is_done is None:
                        # A local one writes them with its next append: in one thread only.
                        if not self.backend.local:
                            self._dirty[writer.id] = writer
                    elif not is_done:
                        self._remove(writer)
                        writer.fence()
                    else:
                        writer.mark_written(write)
                        written.append(writer.id)
                        if write.end:
                            self._remove(writer)
        self._wake(written)

    def _shut_down(self) -> None:
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        try:
            while self.reachable and self._dirty and time.monotonic() < deadline:
                self._flush()
            if self.reachable:
                self.backend.release_lease(self.producer)
        except Unreachable as error:
            self._mark_unreachable(error)
