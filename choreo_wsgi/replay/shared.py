"""Stores that several processes share, whatever their database is.

Two threads serve all streams of a store.  The *keeper* writes what the streams' threads
have appended, many streams in one go, renews the lease and hears of cancellations; it alone
finds out that the database cannot be reached, and that it is back.  The *watcher*, only
there while somebody reads, learns which streams have grown and wakes their readers.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from ..errors import ReplayUnavailable
from .backend import Backend, Identity, Observer, Outcome, Status, Unreachable, Write
from .base import Claim, Reader, Record, Store, Writer, check_id, conflict, gone, new_id, not_found
from .buffer import BufferedWriter
from .follower import Follower

__all__ = ["SharedStore"]

T = TypeVar("T")
_log = logging.getLogger("choreo_wsgi.replay")

#: Seconds after which a silent producer is lost.  With the time to find out, well below the
#: 10 s in which readers must be told.
LEASE = 5.0
#: Seconds between two beats; several must fit into a lease.  Also how late a cancellation is.
BEAT = 0.5
# Seconds that a batch is held open while many streams write: 20 frames a second of 200
# streams are then 20 streams a transaction.
_GATHER = 0.005
_SWEEP = 2.0
_CLOSE = 2.0
# How far a client can be ahead of the log of a lost producer; not a number of any length.
_BEYOND = 1_000_000


class SharedStore(Store):
    """The port on top of a :class:`~choreo_wsgi.replay.backend.Backend`.

    *stream_bytes* bounds what is buffered of one stream while the database is away,
    *buffer_bytes* of all; *lease* and *beat* are in seconds.  *keep_request*: whether
    requests are kept, for somebody to continue a lost stream.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        stream_bytes: int,
        buffer_bytes: int,
        keep_request: bool = False,
        lease: float = LEASE,
        beat: float = BEAT,
    ) -> None:
        self.stream_bytes = stream_bytes
        self.buffer_bytes = buffer_bytes
        self.buffered = 0
        self.reachable = True
        self.beat = beat
        self.recheck = min(2.0, lease / 2)
        self._backend = backend
        self._keep_request = keep_request
        self._observer = Observer(lease)
        self._producer = ""
        # Guards what follows; the keeper waits on it for something to write.
        self._dirt = threading.Condition(threading.Lock())
        self._dirty: dict[str, BufferedWriter] = {}
        self._writers: dict[str, BufferedWriter] = {}
        self._followers: dict[str, set[Follower]] = {}
        self._strays: list[str] = []  # to be deleted when the database is back
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []

    # The port.

    def create(
        self,
        owner: str,
        *,
        model: str = "",
        request: bytes = b"",
        key: str | None = None,
        digest: str = "",
    ) -> Claim:
        kept = request if self._keep_request else b""
        new = Identity(new_id(), owner, model, kept, key, digest)
        try:
            known = self.ask(lambda: self._backend.insert(new, self._producer, 1))
        except ReplayUnavailable:
            if key is not None:
                # Nobody can tell whether it would be paid for twice.
                self._strays.append(new.id)
                raise
            known = None  # the keeper makes it when it finds it missing
        if known is None:
            return Claim(new.id, self._adopt(BufferedWriter(self, new, 1)))
        if known[1] != digest:
            raise conflict()
        return Claim(known[0], None)

    def find(self, id: str, owner: str) -> Record:
        status = self._status(id, owner)
        request = self.ask(lambda: self._backend.request(id))
        return Record(
            id,
            owner,
            status.model,
            status.first,
            status.last,
            status.ended,
            status.cancelled,
            request,
        )

    def read(self, id: str, owner: str, after: int = 0) -> Reader:
        status = self._status(id, owner)
        after = min(after, status.last + _BEYOND)
        if after + 1 < status.first:
            raise gone(after, status.first)
        return Follower(self, self._backend, id, after, status)

    def cancel(self, id: str, owner: str) -> None:
        writer = self._writers.get(id)
        if writer is None or writer.identity.owner != owner:
            self._status(id, owner)
            self.ask(lambda: self._backend.cancel(id))
            return
        writer.cancelled = writer.cancelled or not writer.ended
        with contextlib.suppress(ReplayUnavailable):  # the writer is ours and knows
            self.ask(lambda: self._backend.cancel(id))

    def take_over(self, id: str, owner: str, after: int = 0) -> Writer | None:
        seen = self._status(id, owner)
        if seen.ended or not self.is_lost(id, seen):
            return None
        request = self.ask(lambda: self._backend.request(id))
        fork = max(seen.last, min(after, seen.last + _BEYOND))
        if not self.ask(lambda: self._backend.claim(id, seen, self._producer, fork)):
            return None
        identity = Identity(id, owner, seen.model, request)
        writer = BufferedWriter(self, identity, seen.epoch + 1, seen.last, fork)
        writer.cancelled = seen.cancelled
        return self._adopt(writer)

    def close(self) -> None:
        with self._dirt:
            self._closing.set()
            self._dirt.notify_all()
            threads, self._threads = self._threads, []
            followers = [one for some in self._followers.values() for one in some]
        for follower in followers:
            follower.wake()
        for thread in threads:
            thread.join()
        self.reachable = False
        self._backend.close()

    # For writers and readers.

    @property
    def closing(self) -> bool:
        """Whether the store was closed."""
        return self._closing.is_set()

    def ask(self, question: Callable[[], T]) -> T:
        """Return the database's answer; raises ReplayUnavailable, at once while it is away."""
        self._start()
        if self.reachable and not self.closing:
            try:
                return question()
            except Unreachable as error:
                self._lose(error)
        raise ReplayUnavailable("The store of resumable streams cannot be reached.", retry_after=1)

    def is_lost(self, id: str, status: Status) -> bool:
        """Return whether the producer of a stream, just looked up, is lost."""
        if status.producer != self._producer:
            return self._observer.lost(status.producer, status.beat)
        # Ours, and yet without a writer: the answer to its making was lost on the way.
        return id not in self._writers and self._observer.lost(id, status.epoch)

    def see(self, id: str, producer: str) -> None:
        """Take note that stream *id* has a reader, and let its *producer* know."""
        writer = self._writers.get(id)
        if writer is not None:
            writer.last_read = time.monotonic()
        else:
            self.ask(lambda: self._backend.see(id, producer))

    def append(self, writer: BufferedWriter, change: Callable[[], int]) -> None:
        """Have *writer* make a *change*, which returns its bytes, and the keeper write it."""
        with self._dirt:
            self.buffered += change()
            self._dirty[writer.id] = writer
            if self.buffered > self.buffer_bytes:
                self._drop()
            self._dirt.notify()

    def forget(self, writer: BufferedWriter) -> None:
        """Delete the stream of *writer*."""
        with self._dirt:
            self._release(writer)
            self.buffered -= writer.clear()
        try:
            self.ask(lambda: self._backend.delete(writer.id, writer.epoch))
        except ReplayUnavailable:
            self._strays.append(writer.id)
        self._wake([writer.id])

    def follow(self, follower: Follower) -> None:
        """Wake *follower* from now on whenever its stream may have grown."""
        with self._dirt:
            self._followers.setdefault(follower.id, set()).add(follower)
            if len(self._threads) == 1:
                self._threads.append(self._thread(self._watch))
            self._dirt.notify_all()

    def unfollow(self, follower: Follower) -> None:
        """Forget *follower*."""
        with self._dirt:
            others = self._followers.get(follower.id, set())
            others.discard(follower)
            if not others:
                self._followers.pop(follower.id, None)

    # Inside.

    def _drop(self) -> None:
        # Of the longest: an end that a short one still waits for is worth more.
        writers = [*self._writers.values(), *self._dirty.values()]
        freed = 1
        while freed and self.buffered > self.buffer_bytes * 9 // 10:
            freed = max(writers, key=lambda writer: writer.size).drop()
            self.buffered -= freed

    def _status(self, id: str, owner: str) -> Status:
        check_id(id)
        found = self.ask(lambda: self._backend.fetch(id, None))
        if found is None or found[0].owner != owner:
            raise not_found()
        return found[0]

    def _adopt(self, writer: BufferedWriter) -> Writer:
        with self._dirt:
            self._writers[writer.id] = writer
        return writer

    def _release(self, writer: BufferedWriter) -> None:
        self._dirty.pop(writer.id, None)
        if self._writers.get(writer.id) is writer:
            del self._writers[writer.id]

    def _start(self) -> None:
        # At the first use, not before: a server may fork after it made its store.
        if self._threads:
            return
        with self._dirt:
            if not self._threads and not self.closing:
                self._producer = secrets.token_hex(12)
                self._threads.append(self._thread(self._keep))

    @staticmethod
    def _thread(target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, name="choreo-replay", daemon=True)
        thread.start()
        return thread

    def _lose(self, error: Unreachable) -> None:
        with self._dirt:
            was, self.reachable = self.reachable, False
        if was:
            _log.warning("the replay store cannot be reached: %s", error)

    def _regain(self) -> None:
        self._observer.reset()
        with self._dirt:
            self.reachable = True
            ids = list(self._followers)
        _log.warning("the replay store is back")
        self._wake(ids)

    def _wake(self, ids: Iterable[str]) -> None:
        with self._dirt:
            followers = [one for id in ids for one in self._followers.get(id, ())]
        for follower in followers:
            follower.wake()

    # The keeper.

    def _keep(self) -> None:
        due = swept = 0.0
        crowd = 0
        while not self.closing:
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
                    self._closing.wait(_GATHER)
                crowd = self._flush() if self.reachable else 0
            except Unreachable as error:
                self._lose(error)
            except Exception as error:
                # A fault of ours must not leave all streams without a keeper.
                _log.exception("the keeper of the replay store failed")
                self._lose(Unreachable(str(error)))
        self._leave()

    def _has_work(self) -> bool:
        return self.closing or (self.reachable and bool(self._dirty))

    def _renew(self) -> None:
        with self._dirt:
            running = list(self._writers)
        cancelled, read = self._backend.beat(self._producer, running)
        while self._strays:
            self._backend.delete(self._strays[-1], 1)
            self._strays.pop()
        if not self.reachable:
            self._regain()
        for id in cancelled:
            if id in self._writers:
                self._writers[id].cancelled = True
        for id in read:
            if id in self._writers:
                self._writers[id].last_read = time.monotonic()

    def _sweep(self) -> None:
        def lost(producer: str, beat: int | None) -> bool:
            return producer != self._producer and self._observer.lost(producer, beat)

        self._backend.sweep(lost)

    def _flush(self) -> int:
        """Write what there is; return for how many streams."""
        with self._dirt:
            writers = list(self._dirty.values())
            writes = [writer.take() for writer in writers]
            self._dirty.clear()
        if not writes:
            return 0
        try:
            outcomes = self._backend.write(writes)
            for writer, outcome in zip(writers, outcomes, strict=True):
                if outcome is Outcome.MISSING and not writer.discarded:
                    self._backend.insert(writer.bare(), self._producer, writer.epoch)
        except Exception:
            with self._dirt:
                self._dirty.update({writer.id: writer for writer in writers})
            raise
        with self._dirt:
            for writer, write, outcome in zip(writers, writes, outcomes, strict=True):
                self._settle(writer, write, outcome)
                if write.end and outcome is not Outcome.MISSING:
                    self._release(writer)
        self._wake([write.id for write in writes])
        return len(writes)

    def _settle(self, writer: BufferedWriter, write: Write, outcome: Outcome) -> None:
        if outcome is Outcome.MISSING:
            if not writer.discarded:
                self._dirty[writer.id] = writer  # again, now that it has been made
        elif outcome is Outcome.FENCED:
            self.buffered -= writer.fence()
            self._release(writer)
        else:
            self.buffered -= writer.written(write)

    def _leave(self) -> None:
        deadline = time.monotonic() + _CLOSE
        try:
            while self.reachable and self._dirty and time.monotonic() < deadline:
                self._flush()
            if self.reachable:
                self._backend.leave(self._producer)
        except Unreachable as error:
            self._lose(error)

    # The watcher.

    def _watch(self) -> None:
        while not self.closing:
            with self._dirt:
                self._dirt.wait_for(lambda: self._followers or self.closing, 60)
            if not self.reachable:
                self._closing.wait(self.beat)
                continue
            try:
                self._wake(self._backend.changed(self._waiting, self._closing))
            except Unreachable as error:
                # The keeper finds out by itself whether all is lost or only this.
                _log.debug("watching the replay store failed: %s", error)
                self._closing.wait(self.beat)

    def _waiting(self) -> dict[str, int]:
        with self._dirt:
            return {
                id: min(follower.last for follower in followers)
                for id, followers in self._followers.items()
            }
