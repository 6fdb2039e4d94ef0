"""Admission: how many completions run at once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ..chat.items import Usage
from ..errors import InvalidRequest, Unavailable

if TYPE_CHECKING:
    from .limits import Charge

#: When a refused caller may come back, in seconds: streams end all the time.
RETRY_AFTER = 1.0


class Slots:
    """Room for *maximum* completions; one more is refused at once and never queued."""

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self._lock = threading.Lock()
        #: How many slots are taken.
        self.active = 0
        #: Whether the server is going down and admits nothing more.
        self.draining = False

    def take(self, count: int = 1) -> Slot:
        """Return a slot that takes the room of *count* completions.

        Raises Unavailable when there is not enough room, or the server is draining, and
        InvalidRequest when there never can be.
        """
        if count > self.maximum:
            raise InvalidRequest(
                f"that many choices are that many calls to the provider; at most {self.maximum}",
                param="n",
            )
        with self._lock:
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

    def give_back(self, count: int) -> None:
        """Make the room of *count* completions free again."""
        with self._lock:
            self.active -= count


class Slot:
    """The room that one request takes; *charge* is how its key pays, if that has limits."""

    __slots__ = ("_count", "_slots", "charge")

    def __init__(self, slots: Slots, count: int) -> None:
        self._slots = slots
        self._count = count
        self.charge: Charge | None = None

    def settle(self, usage: Usage | None = None, frames: int = 0) -> None:
        """Charge the key for an answer that is over; idempotent."""
        charge, self.charge = self.charge, None
        if charge is not None:
            charge(usage, frames)

    def release(self) -> None:
        """Give the room back, and the key's reservation unless it is settled; idempotent."""
        self.settle()
        count, self._count = self._count, 0
        self._slots.give_back(count)
