"""Admission: a limit on the number of completions that run at the same time."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from ..chat.items import Usage
from ..errors import InvalidRequest, Unavailable

if TYPE_CHECKING:
    from .limits import Charge

logger = logging.getLogger(__name__)

#: Seconds after which a refused caller may retry: streams end all the time.
RETRY_AFTER = 1.0


class Slots:
    """Slots for *maximum* completions; one more is refused at once and never queued."""

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.lock = threading.Lock()
        #: The number of slots in use; change it under the lock.
        self.active = 0
        #: Whether the server is shutting down and admits no more completions.
        self.draining = False

    def take(self, count: int = 1) -> Slot:
        """Return a slot that counts as *count* completions.

        Raises Unavailable when too few slots are free or the server is draining, and
        InvalidRequest when *count* exceeds the maximum.
        """
        if count > self.maximum:
            raise InvalidRequest(
                f"that many choices need {count} calls to the provider, at most {self.maximum}",
                param="n",
            )
        with self.lock:
            if self.draining:
                raise Unavailable(
                    "the server is shutting down",
                    retry_after=RETRY_AFTER,
                    code="server_shutting_down",
                )
            if self.active + count > self.maximum:
                raise Unavailable(
                    f"all {self.maximum} streams are in use; try again shortly",
                    retry_after=RETRY_AFTER,
                )
            self.active += count
        return Slot(self, count)


class Slot:
    """The slot of one request; *charge* charges its key, None for a key without limits."""

    __slots__ = ("_count", "_slots", "charge")

    def __init__(self, slots: Slots, count: int) -> None:
        self._slots = slots
        self._count = count
        self.charge: Charge | None = None

    def settle(self, usage: Usage | None = None, frames: int = 0) -> None:
        """Charge the key for a finished answer; idempotent.  A failure is logged."""
        charge, self.charge = self.charge, None
        if charge is not None:
            try:
                charge(usage, frames)
            except Exception:
                logger.exception("a key could not be charged")

    def release(self) -> None:
        """Free the slot, and the key's reservation unless it is settled; idempotent."""
        self.settle()
        count, self._count = self._count, 0
        with self._slots.lock:
            self._slots.active -= count
