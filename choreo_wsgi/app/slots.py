"""Admission: how many completions run at once."""

from __future__ import annotations

import threading

from ..errors import Unavailable

#: When a refused caller may come back, in seconds: streams end all the time.
RETRY_AFTER = 1.0


class Slots:
    """Room for *maximum* completions; one more is refused at once, never queued."""

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self._lock = threading.Lock()
        self._taken = 0
        self._draining = False

    @property
    def active(self) -> int:
        """How many slots are taken."""
        return self._taken

    @property
    def draining(self) -> bool:
        """Whether the server is going down and admits nothing more."""
        return self._draining

    def drain(self) -> None:
        """Refuse every further completion."""
        self._draining = True

    def take(self) -> Slot:
        """Return a slot; raises Unavailable when none is free or the server is draining."""
        with self._lock:
            if self._draining:
                raise Unavailable(
                    "the server is shutting down",
                    retry_after=RETRY_AFTER,
                    code="server_shutting_down",
                )
            if self._taken >= self.maximum:
                raise Unavailable(
                    f"all {self.maximum} streams are in use; try again shortly",
                    retry_after=RETRY_AFTER,
                )
            self._taken += 1
        return Slot(self)

    def _give_back(self) -> None:
        with self._lock:
            self._taken -= 1


class Slot:
    """One completion's place; releasing it twice is releasing it once."""

    __slots__ = ("_slots",)

    def __init__(self, slots: Slots) -> None:
        self._slots: Slots | None = slots

    def release(self) -> None:
        """Give the place back."""
        slots, self._slots = self._slots, None
        if slots is not None:
            slots._give_back()
