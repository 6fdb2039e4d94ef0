"""What the carrier moves: a stream, a connection or a listener."""

from __future__ import annotations

import math

from ..chat.source import Lane
from .poller import IN


class Load:
    """A stream or, if *steady*, a connection or listener.

    A steady load gives way to running streams, and keeps its descriptor until it ends.
    """

    # Instance attributes, which Python finds ten times faster here than class attributes.
    def __init__(self, steady: bool = False) -> None:
        self.steady = steady
        #: Whether the carrier is to drop the load.
        self.ended = False
        #: A shortcut that forwards most of the descriptor's data without :meth:`step`; valid
        #: until the next step.
        self.lane: Lane | None = None
        # Kept by the carrier: the polled descriptor and its events, the time of the next check
        # (``time.monotonic()``), and whether a worker has the load.
        self.descriptor: int | None = None
        self.polled_events = 0
        self.timer = math.inf
        self.on_worker = False

    def fileno(self) -> int | None:
        """Return the file descriptor to poll, or None."""
        raise NotImplementedError

    @property
    def events(self) -> int:
        """The events to poll for, if the load is steady."""
        return IN

    @property
    def due(self) -> float | None:
        """When to step even without an event, as ``time.monotonic()``; None for no such time.

        Without a descriptor None means that a step may block.
        """
        raise NotImplementedError

    def step(self, timeout: float) -> None:
        """Move the data that arrive within *timeout* seconds; never raises."""
        raise NotImplementedError

    def abandon(self, error: Exception) -> None:
        """Stop because of *error*: the carrier cannot wait for the load, and drops it."""

    def release(self) -> None:
        """Free resources; called once, on the carrier's thread, when the load has ended."""
