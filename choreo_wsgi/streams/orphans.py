"""Resumable streams whose client has left: they go on, only into the log."""

from __future__ import annotations

import functools
import threading
from collections import Counter

from .carrier import Carrier
from .recording import Recording
from .workers import Workers

#: Threads for orphans that must be waited for, where no server has threads of its own.
THREADS = 256


class Orphans:
    """Keeps generations going without a client; each keeps its slot, which bounds them.

    One that nobody has read for *unread_seconds* is stopped.  Who has a carrier already sets
    *carrier*; otherwise one is made for the first orphan.
    """

    def __init__(self, unread_seconds: float) -> None:
        self.carrier: Carrier | None = None
        self._own: Carrier | None = None
        self._unread_seconds = unread_seconds
        self._lock = threading.Lock()
        self._owners: Counter[str] = Counter()
        self._closing = False

    @property
    def active(self) -> int:
        """How many there are."""
        return self._owners.total()

    def active_of(self, owner: str) -> int:
        """Return how many there are of *owner*."""
        return self._owners[owner]

    def adopt(self, recording: Recording, owner: str) -> bool:
        """Go on with *recording*; False after :meth:`close`."""
        with self._lock:
            if self._closing:
                return False
            self._owners[owner] += 1
            if self.carrier is None:
                self.carrier = self._own = Carrier(Workers(THREADS))
                self._own.start()
        recording.orphan(self._unread_seconds, functools.partial(self._leave, owner))
        self.carrier.carry(recording)
        return True

    def _leave(self, owner: str) -> None:
        with self._lock:
            self._owners -= Counter((owner,))

    def close(self) -> None:
        """Take no more; what runs is left as it is."""
        with self._lock:
            self._closing = True
        if self._own is not None:
            self._own.close()
