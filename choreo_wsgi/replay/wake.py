"""A descriptor to poll for what happens in another thread."""

from __future__ import annotations

import contextlib
import socket


class Wake:
    """Readable from :meth:`set` to :meth:`clear`; whoever uses it calls one method at a time."""

    def __init__(self) -> None:
        # Not a pipe: Windows cannot wait for one.
        self._inside, self._outside = socket.socketpair()
        self._set = False

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._inside.fileno()

    def wait(self, seconds: float) -> None:
        """Return when it is set, after *seconds* at the latest."""
        self._inside.settimeout(max(0.0, seconds))
        with contextlib.suppress(BlockingIOError, TimeoutError):
            self._inside.recv(1, socket.MSG_PEEK)

    def set(self) -> None:
        """Make the descriptor readable."""
        if not self._set:
            self._set = True
            self._outside.send(b"\1")

    def clear(self) -> None:
        """Make it unreadable."""
        if self._set:
            self._set = False
            self._inside.recv(1)

    def close(self) -> None:
        """Free the descriptor."""
        self._inside.close()
        self._outside.close()
