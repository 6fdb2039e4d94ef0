"""What a provider opens: chunks, frames or a document, read piece by piece.

:class:`Source`, :class:`Frames` and :class:`Reply` share one way of being read, so that a
stream's thread, a thread that serves many of them, or a test can ask for what is there:

* ``receive(timeout)`` waits at most *timeout* seconds; ``receive(0)`` never blocks.  It
  returns what came, which is falsy when nothing did, and raises ChoreoError when the
  provider failed.  What came before a failure is returned first.
* ``ended`` turns true when all has been returned.
* ``fileno()`` is what to poll for more, or None when only asking tells.
* ``close()`` lets go of everything at once, at any time, as often as wanted.
"""

from __future__ import annotations

from typing import Protocol

from .items import Item, Usage


class Source:
    """Chat chunks as they come; see the module's text for the rules."""

    ended: bool = False
    #: What was used so far, where the source can tell before its end: an answer that is
    #: broken off is accounted for with it, once closed.  At the end it is handed over as an
    #: item.
    usage: Usage | None = None

    def receive(self, timeout: float) -> list[Item]:
        """Return what came within *timeout* seconds, in order."""
        raise NotImplementedError

    def fileno(self) -> int | None:
        """Return the file descriptor to poll, or None."""
        return None

    def close(self) -> None:
        """Stop the generation and free what it holds."""


class Frames(Protocol):
    """A stream as whole SSE frames, without its end marker."""

    @property
    def ended(self) -> bool:
        """Whether all has been returned."""

    @property
    def usage(self) -> Usage | None:
        """What the provider reported so far, for the accounting; None when nothing."""

    @property
    def label(self) -> str:
        """Who answers, for the header ``Choreo-Provider``; final once something came."""

    def receive(self, timeout: float) -> bytes:
        """Return the frames that came within *timeout* seconds, joined."""

    def fileno(self) -> int | None:
        """Return the file descriptor to poll, or None."""

    def close(self) -> None:
        """Stop the generation and free what it holds."""


class Reply(Protocol):
    """A plain completion: one JSON document, returned whole."""

    @property
    def ended(self) -> bool:
        """Whether the document has been returned."""

    @property
    def usage(self) -> Usage | None:
        """What the provider reported, for the accounting; None when nothing."""

    @property
    def label(self) -> str:
        """Who answers, for the header ``Choreo-Provider``; final once something came."""

    def receive(self, timeout: float) -> bytes:
        """Return the whole document once it is there, ``b""`` before."""

    def fileno(self) -> int | None:
        """Return the file descriptor to poll, or None."""

    def close(self) -> None:
        """Stop the generation and free what it holds."""
