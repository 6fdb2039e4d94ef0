"""Waiting for many descriptors: epoll, and its shape over :mod:`selectors` where it is missing."""

from __future__ import annotations

import contextlib
import select
import selectors

#: What is waited for, as epoll has it.
IN, OUT = 1, 4

#: Whether a descriptor that is closed is polled no more.
EPOLL = hasattr(select, "epoll")


class Selecting:
    """What is used of ``select.epoll``, for macOS, BSD and Windows."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.close = self._selector.close

    def register(self, fd: int, events: int) -> None:
        """Wait for *events* at *fd*, which may have been closed and opened meanwhile."""
        self.unregister(fd)
        reading = selectors.EVENT_READ if events & IN else 0
        self._selector.register(fd, reading | (selectors.EVENT_WRITE if events & OUT else 0))

    modify = register

    def unregister(self, fd: int) -> None:
        """Wait for nothing at *fd*."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(fd)

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        """Return which descriptors are ready, waiting at most *timeout* seconds for the first."""
        return [(key.fd, events) for key, events in self._selector.select(timeout)]


def new_poller() -> select.epoll | Selecting:
    """Return the fastest poller that there is."""
    # selectors.EpollSelector makes objects in Python of what epoll returns: felt at each frame
    # of a stream at a model's pace.
    return select.epoll() if EPOLL else Selecting()
