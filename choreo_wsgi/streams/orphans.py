"""Resumable streams whose client has left: they go on, only into the log."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable

from ..errors import InvalidRequest
from .carrier import Carrier, Load
from .recording import Recording
from .workers import Workers

#: Threads for orphans that must be waited for, where no server has threads of its own.
THREADS = 256

#: Blocks of a stream that need not be waited for before it is the next one's turn.
BLOCKS = 16

logger = logging.getLogger(__name__)


class Orphan(Load):
    """A *recording* without a client; stopped when nobody has read it for *unread_seconds*.

    *left* is called once, when it has ended.
    """

    def __init__(
        self, recording: Recording, unread_seconds: float, left: Callable[[], None]
    ) -> None:
        self._recording = recording
        self._unread_seconds = unread_seconds
        self._left = left
        recording.waits = False

    def fileno(self) -> int | None:
        """Return the descriptor that the recording reads from, or None."""
        return self._recording.fileno()

    @property
    def due(self) -> float | None:
        """When to ask the recording although nothing came."""
        return self._recording.due

    def step(self, patience: float) -> None:
        """Log what there is."""
        recording = self._recording
        try:
            if recording.seconds_unread > self._unread_seconds:
                recording.abandon(
                    InvalidRequest("nobody read the stream for too long", code="stream_cancelled")
                )
            else:
                for _ in range(BLOCKS):
                    if not recording.receive(patience) or recording.fileno() is not None:
                        break
            self.ended = recording.ended
        except Exception:
            logger.exception("a stream without a client cannot go on")
            recording.give_up()
            self.ended = True

    def leave(self) -> None:
        """Count it out."""
        self._left()


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
        self.carrier.carry(Orphan(recording, self._unread_seconds, lambda: self._leave(owner)))
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
