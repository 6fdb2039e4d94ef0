"""A store that several processes share, on top of any database.

Two threads serve all streams of a store: the :mod:`~choreo_wsgi.replay.keeper`, and, once there
is a reader, the *watcher*, which polls the database for frames of other processes and wakes the
readers.  Frames that this process has written go to its own readers directly.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from typing import TypeVar

from ..errors import ReplayUnavailable
from ..settings import Settings
from .backend import Backend, Block, Status, Unreachable, Write
from .base import Claim, Lost, Reader, Store, check_id, conflict, gone, new_id, not_found
from .blocks import check_block
from .keeper import Keeper
from .reader import Follower
from .writer import BufferedWriter

T = TypeVar("T")
logger = logging.getLogger(__name__)

#: Seconds after which a silent producer counts as lost.  Readers must be told within 10 s, and
#: noticing takes time too.
LEASE = 5.0
#: Seconds between two beats; several must fit into a lease.  Also how late a cancellation is.
BEAT = 0.5
# How many frames a client can be ahead of the log of a lost producer; bounds what is stored.
_BEYOND = 1_000_000
# Seconds for a cancelled stream of another process to end.
_ENDING = 3.0


class SharedStore(Store):
    """The port on top of a :class:`~choreo_wsgi.replay.backend.Backend`.

    While the database is away at most ``replay_stream_bytes`` of one stream are buffered and
    ``replay_total_bytes`` of all.  *lease* and *beat* are in seconds.
    """

    def __init__(self, backend: Backend, settings: Settings, *, lease: float, beat: float) -> None:
        self._backend = backend
        self._keeper = Keeper(
            backend,
            stream_bytes=settings.replay_stream_bytes,
            buffer_bytes=settings.replay_total_bytes,
            lease=lease,
            beat=beat,
            written=self._hand_over,
            restored=self._wake,
        )
        # Guards the followers; the watcher waits on it for the first.
        self._following = threading.Condition(threading.Lock())
        self._followers: dict[str, set[Follower]] = {}
        self._watcher: threading.Thread | None = None

    @property
    def reachable(self) -> bool:
        """Whether the database answered when it was last asked."""
        return self._keeper.reachable

    @property
    def buffered(self) -> int:
        """The number of bytes that wait to be written."""
        return self._keeper.buffered

    # The port.

    def create(self, owner: str, *, key: str | None = None, digest: str = "") -> Claim:
        keeper, id = self._keeper, new_id()
        try:
            known = keeper.ask(
                lambda: self._backend.insert(id, owner, key, digest, keeper.producer)
            )
        except ReplayUnavailable:
            if key is not None:
                # The key may be in use already, and the generation would be paid for twice.
                keeper.delete_later(id)
                raise
            known = None  # its first write creates it
        if known is None:
            return Claim(id, keeper.adopt(BufferedWriter(keeper, id, owner)))
        if known[1] != digest:
            raise conflict()
        return Claim(known[0], None)

    def read(self, id: str, owner: str, after: int = 0) -> Reader:
        status = self._status(id, owner)
        after = min(after, status.last + _BEYOND)
        if after + 1 < status.first:
            raise gone(after, status.first)
        follower = Follower(self._keeper, id, owner, after, self._unfollow)
        with self._following:
            self._followers.setdefault(id, set()).add(follower)
            if self._watcher is None and not self._keeper.closing.is_set():
                self._watcher = threading.Thread(
                    target=self._watch, name="choreo-replay-watcher", daemon=True
                )
                self._watcher.start()
            self._following.notify_all()
        return follower

    def _unfollow(self, follower: Follower) -> None:
        with self._following:
            others = self._followers.get(follower.id, set())
            others.discard(follower)
            if not others:
                self._followers.pop(follower.id, None)

    def cancel(self, id: str, owner: str) -> None:
        writer = self._keeper.own(id, owner)
        if writer is None:
            self._status(id, owner)
        else:
            writer.cancelled |= not writer.ended
        try:
            self._keeper.ask(lambda: self._backend.mark(id, "cancelled"))
        except ReplayUnavailable:
            if writer is None:  # ours has been told
                raise

    def delete(self, id: str, owner: str) -> None:
        writer = self._keeper.own(id, owner)
        if writer is not None:
            self._keeper.forget(writer)
            return
        deadline = time.monotonic() + _ENDING
        while not ((status := self._status(id, owner)).ended or self._keeper.is_lost(id, status)):
            if time.monotonic() >= deadline:
                raise ReplayUnavailable("The stream has not ended yet.", retry_after=1)
            self._keeper.closing.wait(self._keeper.beat / 4)
        self._keeper.ask(lambda: self._backend.delete(id))
        self._wake([id])

    def lost(self, id: str, owner: str, after: int = 0) -> Lost | None:
        seen = self._status(id, owner)
        if seen.ended or not self._keeper.is_lost(id, seen):
            return None
        last = max(seen.last, min(after, seen.last + _BEYOND))

        def end(frames: bytes, count: int) -> None:
            check_block(frames, count, last)
            block = Block(last + 1, last + count, frames)
            self._keeper.ask(lambda: self._backend.end(id, seen, block))
            self._wake([id])

        return Lost(last, seen.cancelled, end)

    def close(self) -> None:
        self._keeper.close()
        with self._following:
            self._following.notify_all()
            watcher, self._watcher = self._watcher, None
        self._wake()
        if watcher is not None:
            watcher.join()
        self._backend.close()

    def _status(self, id: str, owner: str) -> Status:
        check_id(id)
        found = self._keeper.ask(lambda: self._backend.fetch(id, None))
        if found is None:
            raise self._keeper.missing(id, owner)
        if found[0].owner != owner:
            raise not_found()
        return found[0]

    def _hand_over(self, writes: list[Write]) -> None:
        """Pass *writes* to the readers in this process."""
        with self._following:
            pairs = [(one, write) for write in writes for one in self._followers.get(write.id, ())]
        for follower, write in pairs:
            follower.offer(write)

    def _wake(self, ids: Iterable[str] | None = None) -> None:
        """Wake the readers of the streams *ids*, or all."""
        with self._following:
            ids = list(self._followers) if ids is None else ids
            followers = [one for id in ids for one in self._followers.get(id, ())]
        for follower in followers:
            follower.wake()

    def _watch(self) -> None:
        closing = self._keeper.closing
        while not closing.is_set():
            with self._following:
                self._following.wait_for(lambda: self._followers or closing.is_set(), 60)
            if not self.reachable:
                closing.wait(self._keeper.beat)
                continue
            try:
                self._wake(self._backend.changed(self._waiting, closing))
            except Exception as error:
                # The keeper finds out whether the database is away or only this call failed.  A
                # bug must not end the thread.
                level = logging.DEBUG if isinstance(error, Unreachable) else logging.ERROR
                logger.log(level, "watching the replay store failed: %r", error)
                closing.wait(self._keeper.beat)

    def _waiting(self) -> dict[str, int]:
        with self._following:
            return {
                id: min(follower.last for follower in followers)
                for id, followers in self._followers.items()
            }
