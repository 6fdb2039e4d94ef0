"""Polling of many descriptors: epoll, or :mod:`selectors` behind epoll's interface."""

from __future__ import annotations

import contextlib
import select
import selectors

#: The events to wait for, with epoll's values.
IN, OUT = 1, 4

#: Whether the poller drops a descriptor by itself when it is closed.
EPOLL = hasattr(select, "epoll")


class Selecting:
    """The used part of ``select.epoll``'s interface, for macOS, BSD and Windows."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.close = self._selector.close

    def register(self, fd: int, events: int) -> None:
        """Poll *fd* for *events*; it may have been closed and reopened since the last call."""
        self.unregister(fd)
        reading = selectors.EVENT_READ if events & IN else 0
        self._selector.register(fd, reading | (selectors.EVENT_WRITE if events & OUT else 0))

    modify = register

    def unregister(self, fd: int) -> None:
        """Stop polling *fd*."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(fd)

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        """Wait up to *timeout* seconds for a descriptor; return those that are ready."""
        return [(key.fd, events) for key, events in self._selector.select(timeout)]


def new_poller() -> select.epoll | Selecting:
    """Return the fastest poller of this system."""
    # selectors.EpollSelector creates a Python object per event: measurable at one event a frame.
    return select.epoll() if EPOLL else Selecting()
