"""A request, its timeouts, and the steps that send it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field

#: A generator that does network input and output without waiting for it.  It yields ``(events,
#: deadline)`` where it must wait, and is resumed when its socket has one of the ``select.POLL``
#: *events*, or with :class:`Overdue` at the *deadline* (``time.monotonic()``).  When *events* is
#: 0, the next step may block.
Steps = Generator[tuple[int, float], None, None]


class Overdue(TimeoutError):
    """Raised inside steps whose deadline has passed."""


@dataclass(frozen=True)
class Timeouts:
    """Timeouts in seconds; named after the settings, without ``_timeout``.

    *connect* covers name lookup, connecting, a proxy and TLS; *first_byte* the time after that,
    up to the first byte of the answer's body (servers send the head at once and are silent
    during the prefill); *idle* every later silence.
    """

    connect: float = 10.0
    first_byte: float = 300.0
    idle: float = 60.0


#: A part of a body.
Piece = bytes | memoryview


@dataclass(slots=True)
class HTTPRequest:
    """A request to send; Host, Content-Length and Accept-Encoding are added to *headers*."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    #: A long body is in pieces.
    body: bytes | list[Piece] = b""

    @property
    def pieces(self) -> list[Piece]:
        """The body in one or more pieces."""
        return [self.body] if isinstance(self.body, bytes) else self.body
