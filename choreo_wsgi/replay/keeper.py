"""The keeper: the thread that writes the frames of all streams of a process to the database.

It writes many streams at once, renews the lease and receives cancellations.  It also detects that
the database cannot be reached, and that it is back.
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
from .backend import Backend, Observer, Status, Unreachable
from .writer import Writer

T = TypeVar("T")
logger = logging.getLogger(__name__)

# Seconds for which frames are gathered while many streams write: of 200 streams with 20 frames a
# second each, 20 streams share a transaction.
_GATHER = 0.005
_SWEEP = 2.0
_CLOSE = 2.0
# Seconds in which producers restore their streams to a database that lost its data.
_RETURN = 10.0


def not_found() -> NotFound:
    """Return the error for every stream that the caller may not know of."""
    return NotFound("There is no such stream.", code="stream_not_found")


class Keeper:
    """Writes to *backend* and queries it.

    While the database is away at most *stream_bytes* of one stream are buffered and
    *buffer_bytes* of all.  *lease* and *beat* are in seconds.  *wake* is called with the ids of
    the streams that have grown, with None when the database is back.
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
        #: Seconds after which a reader looks without being woken: its producer may be lost.
        self.recheck = min(2.0, lease / 2)
        self.producer = ""  # the name of this process, once the keeper runs
        self.closing = threading.Event()
        self.backend = backend
        self.writers: dict[str, Writer] = {}
        self._buffer_bytes = buffer_bytes
        self._wake = wake
        self._observer = Observer(lease)
        self._beaten = False
        self._emptied = -math.inf  # when the database was last seen to have lost its data
        self._strays: list[str] = []  # to be deleted when the database is back
        self._dirty: dict[str, Writer] = {}  # those of the writers with something to write
        # Guards the writers and their buffers; the keeper waits on it for something to write.
        self._dirt = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None

    def ask(self, question: Callable[[], T]) -> T:
        """Return the database's answer; raises ReplayUnavailable, at once while it is away."""
        self._start()
        if self.reachable and not self.closing.is_set():
            try:
                return question()
            except Unreachable as error:
                self._lose(error)
        raise ReplayUnavailable("The store of resumable streams cannot be reached.", retry_after=1)

    def is_lost(self, id: str, status: Status) -> bool:
        """Return whether the producer of stream *id*, just looked up, is lost."""
        if status.producer != self.producer:
            return self._observer.lost(status.producer, status.beat)
        # Ours but without a writer: the answer to its insertion was lost.
        return id not in self.writers and self._observer.lost(id, None)

    def own(self, id: str, owner: str) -> Writer | None:
        """Return the writer of stream *id* of *owner*, if this process has it."""
        writer = self.writers.get(id)
        return writer if writer is not None and writer.owner == owner else None

    def missing(self, id: str, owner: str) -> ChoreoError:
        """Return the error for a stream that is not in the database."""
        if self.own(id, owner) is None:
            emptied = time.monotonic() - self._emptied < _RETURN or (
                self._beaten and not self.ask(lambda: self.backend.remembers(self.producer))
            )
            if not emptied:
                return not_found()
        # Created, or lost by the database, during an outage: its producer will insert it again
        # with the frames that are still buffered.
        return ReplayUnavailable("The stream is not stored yet.", retry_after=1)

    def adopt(self, writer: Writer) -> Writer:
        """Write the frames of *writer* from now on, until its end is written."""
        with self._dirt:
            self.writers[writer.id] = writer
        return writer

    def append(self, writer: Writer, frames: bytes, count: int, end: bool) -> None:
        """Have *count* frames added to *writer*, and written soon."""
        with self._dirt:
            if writer.id not in self.writers:
                return  # it was fenced just now
            writer.buffer(frames, count, end)
            if not self.backend.local:
                self._dirty[writer.id] = writer
                self._dirt.notify()
            if self.buffered > self._buffer_bytes:
                # From the largest buffers first: a small one may hold the end of a stream.
                while self.buffered > self._buffer_bytes * 9 // 10:
                    max(self.writers.values(), key=lambda one: one.size).drop()
        if self.backend.local:
            self._write([writer])

    def forget(self, writer: Writer) -> None:
        """Delete the stream of *writer*, whose next append raises Fenced."""
        with self._dirt:
            self._release(writer)
            writer.fence()
        self._now_or_later(self.backend.delete, writer.id)
        self._wake([writer.id])

    def free_key(self, writer: Writer) -> None:
        """Free the key of *writer*'s stream for another stream."""
        self._now_or_later(self.backend.free_key, writer.id)

    def _now_or_later(self, do: Callable[[str], None], id: str) -> None:
        """Do it to the stream *id*, or delete that once the database is back."""
        try:
            self.ask(lambda: do(id))
        except ReplayUnavailable:
            self.delete_later(id)

    def delete_later(self, id: str) -> None:
        """Delete the stream *id*, if it exists, when the database is back."""
        self._strays.append(id)

    def close(self) -> None:
        """Write the buffered frames, for at most two seconds, and give up the lease."""
        with self._dirt:
            self.closing.set()
            self._dirt.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        self.reachable = False

    def _start(self) -> None:
        # At the first use, not before: a server may fork after it made its store.
        if self._thread is not None:
            return
        with self._dirt:
            if self._thread is None and not self.closing.is_set():
                self.producer = secrets.token_hex(12)
                self._thread = threading.Thread(
                    target=self._run, name="choreo-replay-keeper", daemon=True
                )
                self._thread.start()

    def _lose(self, error: Unreachable) -> None:
        with self._dirt:
            was, self.reachable = self.reachable, False
        if was:
            logger.warning("the replay store cannot be reached: %s", error)

    def _regain(self) -> None:
        self._observer.reset()
        with self._dirt:
            self.reachable = True
        logger.warning("the replay store is back")
        self._wake(None)

    def _release(self, writer: Writer) -> None:
        self._dirty.pop(writer.id, None)
        self.writers.pop(writer.id, None)

    # The thread.

    def _run(self) -> None:
        due = swept = 0.0
        crowd = 0
        while not self.closing.is_set():
            now = time.monotonic()
            try:
                if now >= due:
                    due = now + self.beat
                    self._renew()
                if now >= swept + _SWEEP and self.reachable:
                    swept = now
                    self._sweep()
                with self._dirt:
                    self._dirt.wait_for(self._has_work, max(0.0, due - time.monotonic()))
                if crowd > 1:
                    self.closing.wait(_GATHER)
                crowd = self._flush() if self.reachable else 0
            except Unreachable as error:
                self._lose(error)
            except Exception as error:
                # A bug must not end the thread that all streams depend on.
                logger.exception("the keeper of the replay store failed")
                self._lose(Unreachable(str(error)))
        self._leave()

    def _has_work(self) -> bool:
        return self.closing.is_set() or (self.reachable and bool(self._dirty))

    def _renew(self) -> None:
        with self._dirt:
            running = list(self.writers)
        beat = self.backend.beat(self.producer, running)
        if beat.fresh and self._beaten:
            # The database came back empty: insert the running streams again.
            self._emptied = time.monotonic()
            with self._dirt:
                self._dirty.update(self.writers)
        self._beaten = True
        while self._strays:
            self.backend.delete(self._strays[-1])
            self._strays.pop()
        if not self.reachable:
            self._regain()
        with self._dirt:
            for id in beat.cancelled:
                if id in self.writers:
                    self.writers[id].cancelled = True
            for id in beat.read:
                if id in self.writers:
                    self.writers[id].last_read = time.monotonic()

    def _sweep(self) -> None:
        def lost(producer: str, beat: int | None) -> bool:
            return producer != self.producer and self._observer.lost(producer, beat)

        self.backend.sweep(lost)

    def _flush(self) -> int:
        """Write the buffered frames; return of how many streams."""
        with self._dirt:
            writers = list(self._dirty.values())
            self._dirty.clear()
        if writers:
            self._write(writers)
        return len(writers)

    def _write(self, writers: Sequence[Writer]) -> None:
        with self._dirt:
            writes = [writer.take() for writer in writers]
        done: Sequence[bool | None] = [None] * len(writes)  # None: it is not known
        written: list[str] = []
        try:
            done = self.backend.write(self.producer, writes)
        finally:
            with self._dirt:
                for writer, write, is_done in zip(writers, writes, done, strict=True):
                    if writer.id not in self.writers:
                        # Deleted meanwhile, and perhaps made anew by this very write.
                        self._strays.append(writer.id)
                    elif is_done is None:
                        self._dirty[writer.id] = writer
                    elif not is_done:
                        self._release(writer)
                        writer.fence()
                    else:
                        writer.written(write)
                        written.append(writer.id)
                        if write.end:
                            self._release(writer)
        self._wake(written)

    def _leave(self) -> None:
        deadline = time.monotonic() + _CLOSE
        try:
            while self.reachable and self._dirty and time.monotonic() < deadline:
                self._flush()
            if self.reachable:
                self.backend.leave(self.producer)
        except Unreachable as error:
            self._lose(error)
