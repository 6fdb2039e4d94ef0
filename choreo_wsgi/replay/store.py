"""The store of resumable streams, on top of any database.

Two threads serve all streams of a store: the :mod:`~choreo_wsgi.replay.keeper`, and the *watcher*,
which polls a shared database for frames of other processes and wakes the readers.  The watcher
starts with the first reader.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..errors import IdempotencyConflict, ReplayUnavailable
from ..settings import Settings
from .backend import Backend, Block, Status, Unreachable
from .keeper import Keeper, not_found
from .reader import Reader, frames_dropped
from .writer import Writer, check_block

logger = logging.getLogger(__name__)

#: Seconds after which a silent producer counts as lost.  Readers must learn of it within 10 s,
#: and detecting it takes time too.
LEASE = 5.0
#: Seconds between two beats; several must fit into a lease.  Also the delay of a cancellation.
BEAT = 0.5
# Limit of frames that a client may be ahead of the log of a lost producer; bounds their numbers.
_MAX_AHEAD = 1_000_000
# Seconds to wait until a cancelled stream of another process ends.
_CANCEL_TIMEOUT = 3.0
_ID = re.compile(r"strm_[A-Za-z0-9_-]{32}")


@dataclass(frozen=True)
class Claim:
    """The result of ``create``: a new stream and its *writer*, or an existing one to join.

    *writer* is None if the idempotency key already names the stream *id*.
    """

    id: str
    writer: Writer | None


@dataclass(frozen=True)
class Lost:
    """A running stream whose producer is lost.

    *last* is the number of the last frame in the log, or the reader's if that is higher;
    *cancelled* is whether the stream was cancelled.  ``end(frames, count)`` ends the log with
    *count* whole frames, numbered from ``last + 1``; it does nothing if another caller was
    faster, or the producer is alive again.
    """

    last: int
    cancelled: bool
    end: Callable[[bytes, int], None]


class Store:
    """The replay logs of all streams, in a :class:`~choreo_wsgi.replay.backend.Backend`.

    *blocking* is whether its methods may wait.  During an outage at most ``replay_stream_bytes``
    of one stream are buffered and ``replay_total_bytes`` of all.  *lease* and *beat* are in
    seconds.
    """

    def __init__(self, backend: Backend, settings: Settings, *, lease: float, beat: float) -> None:
        self.blocking = not backend.local
        self._backend = backend
        self._keeper = Keeper(
            backend,
            stream_bytes=settings.replay_stream_bytes,
            buffer_bytes=settings.replay_total_bytes,
            lease=lease,
            beat=beat,
            wake=self._wake,
        )
        # Guards the readers; the watcher waits on it while there are none.
        self._readers_changed = threading.Condition(threading.Lock())
        self._readers: dict[str, set[Reader]] = {}
        self._watcher: threading.Thread | None = None

    @property
    def reachable(self) -> bool:
        """Whether the database answered the last operation."""
        return self._keeper.reachable

    def create(self, owner: str, *, key: str | None = None, digest: str = "") -> Claim:
        """Create a stream of *owner*.

        *key* is the caller's Idempotency-Key and *digest* that of the request's body.  Of several
        calls with the same owner and key, one creates the stream; the others get its id to join
        it, as long as it exists.  Raises IdempotencyConflict if the digests differ, and
        ReplayUnavailable if there is a key and the store is unreachable (without a key, the
        stream begins in the buffer).
        """
        # 192 random bits reveal neither a count nor a time.
        keeper, id = self._keeper, "strm_" + secrets.token_urlsafe(24)

        def insert() -> tuple[str, str] | None:
            try:
                return self._backend.insert(id, owner, key, digest, keeper.producer)
            except Unreachable:
                if key is not None:  # perhaps it was created, and would be joined for ever
                    keeper.delete_later(id)
                raise

        try:
            known = keeper.query(insert)
        except ReplayUnavailable:
            if key is not None:
                # The key may be in use already, and the generation would be paid for twice.
                raise
            known = None  # its first write creates it
        if known is None:
            return Claim(id, keeper.register(Writer(keeper, id, owner)))
        if known[1] != digest:
            raise IdempotencyConflict("The Idempotency-Key was used before, with another body.")
        return Claim(known[0], None)

    def read(self, id: str, owner: str, after: int = 0) -> Reader:
        """Return a reader of the frames after *after*.

        Raises NotFound, StreamGone and ReplayUnavailable immediately, not at the first read.
        """
        status = self._status(id, owner)
        after = min(after, status.last + _MAX_AHEAD)
        if after + 1 < status.first:
            raise frames_dropped(after, status.first)
        reader = Reader(self._keeper, id, owner, after, self._remove_reader)
        with self._readers_changed:
            self._readers.setdefault(id, set()).add(reader)
            if self.blocking and self._watcher is None:
                self._watcher = threading.Thread(
                    target=self._watch, name="choreo-replay-watcher", daemon=True
                )
                self._watcher.start()
            self._readers_changed.notify_all()
        return reader

    def _remove_reader(self, reader: Reader) -> None:
        with self._readers_changed:
            others = self._readers.get(reader.id, set())
            others.discard(reader)
            if not others:
                self._readers.pop(reader.id, None)

    def cancel(self, id: str, owner: str) -> None:
        """Request that the producer, in any process, stops; idempotent, ignored by an ended log.

        If the producer is lost, ``lost().cancelled`` becomes true.
        Raises NotFound and ReplayUnavailable.
        """
        writer = self._keeper.own_writer(id, owner)
        if writer is None:
            self._status(id, owner)
        else:
            writer.cancelled = True
        try:
            self._keeper.query(lambda: self._backend.mark(id, "cancelled"))
        except ReplayUnavailable:
            if writer is None:  # a writer of this process has its flag already
                raise

    def delete(self, id: str, owner: str) -> None:
        """Delete a stream; its readers get NotFound, and its producer, if it runs, Fenced.

        A stream of another process must have been cancelled; it is given a few seconds to end.
        Raises NotFound and ReplayUnavailable.
        """
        writer = self._keeper.own_writer(id, owner)
        if writer is not None:
            self._keeper.discard(writer)
            return
        deadline = time.monotonic() + _CANCEL_TIMEOUT
        is_lost = self._keeper.is_lost
        while not ((seen := self._status(id, owner)).ended or is_lost(seen.producer, seen.beat)):
            if time.monotonic() >= deadline:
                raise ReplayUnavailable("The stream has not ended yet.", retry_after=1)
            self._keeper.closing.wait(self._keeper.beat / 4)
        self._keeper.query(lambda: self._backend.delete(id))
        self._wake([id])

    def lost(self, id: str, owner: str, after: int = 0) -> Lost | None:
        """Return the :class:`Lost` of a stream; None if its producer is alive, or it has ended.

        *after* is the number of the reader's last frame; new frames are numbered after it and
        after the log's last.  Raises NotFound and ReplayUnavailable, and so does ``Lost.end``.
        """
        seen = self._status(id, owner)
        if seen.ended or not self._keeper.is_lost(seen.producer, seen.beat):
            return None
        last = max(seen.last, min(after, seen.last + _MAX_AHEAD))

        def end(frames: bytes, count: int) -> None:
            check_block(frames, count, last)
            block = Block(last + 1, last + count, frames)
            self._keeper.query(lambda: self._backend.end(id, seen, block))
            self._wake([id])

        return Lost(last, seen.cancelled, end)

    def close(self) -> None:
        """Write the buffered frames, for two seconds at most, and free all resources.

        Readers see the producer of streams that have not ended as lost at once.
        """
        self._keeper.close()
        with self._readers_changed:
            self._readers_changed.notify_all()
            watcher, self._watcher = self._watcher, None
        self._wake()
        if watcher is not None:
            watcher.join()
        self._backend.close()

    def _status(self, id: str, owner: str) -> Status:
        if not _ID.fullmatch(id):
            raise not_found()
        found = self._keeper.query(lambda: self._backend.fetch(id, None))
        if found is None:
            raise self._keeper.missing_error(id, owner)
        if found[0].owner != owner:
            raise not_found()
        return found[0]

    def _wake(self, ids: Iterable[str] | None = None) -> None:
        """Wake the readers of the streams *ids*, or all readers."""
        with self._readers_changed:
            ids = list(self._readers) if ids is None else ids
            readers = [one for id in ids for one in self._readers.get(id, ())]
        for reader in readers:
            reader.wake()

    def _watch(self) -> None:
        closing = self._keeper.closing
        while not closing.is_set():
            with self._readers_changed:
                self._readers_changed.wait_for(lambda: self._readers or closing.is_set(), 60)
            if not self.reachable:
                closing.wait(self._keeper.beat)
                continue
            try:
                self._wake(self._backend.wait_for_changes(self._positions, closing))
            except Exception as error:
                # The keeper detects outages; this call alone may have failed.  A bug must not
                # end the thread.
                level = logging.DEBUG if isinstance(error, Unreachable) else logging.ERROR
                logger.log(level, "watching the replay store failed: %r", error)
                closing.wait(self._keeper.beat)

    def _positions(self) -> dict[str, int]:
        with self._readers_changed:
            return {id: min(one.last for one in ones) for id, ones in self._readers.items()}
