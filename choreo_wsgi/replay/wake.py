"""A descriptor to poll for what happens in another thread."""

from __future__ import annotations

import os
import select


class Wake:
    """Readable from :meth:`set` to :meth:`clear`; whoever uses it calls one method at a time."""

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self._inside = self._outside = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._inside, self._outside = os.pipe()
            os.set_blocking(self._inside, False)
        self._set = False

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._inside

    def wait(self, seconds: float) -> None:
        """Return when it is set, after *seconds* at the latest."""
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(self._inside, select.POLLIN)
            poll.poll(seconds * 1000)
        else:
            select.select([self._inside], [], [], seconds)

    def set(self) -> None:
        """Make the descriptor readable."""
        if not self._set:
            self._set = True
            os.write(self._outside, b"\1\0\0\0\0\0\0\0")

    def clear(self) -> None:
        """Make it unreadable."""
        if self._set:
            self._set = False
            os.read(self._inside, 8)

    def close(self) -> None:
        """Free the descriptor."""
        os.close(self._inside)
        if self._outside != self._inside:
            os.close(self._outside)
