"""What an exchange is given: the request, and how long to wait."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field

#: What a way to a connection or a head waits for, step by step: see :mod:`.connect`.
Steps = Generator[tuple[int, float], None, None]


class Overdue(TimeoutError):
    """Raised inside of steps: what they wait for has not come in time."""


@dataclass(frozen=True)
class Timeouts:
    """How long to wait, in seconds; the names of the settings without ``_timeout``.

    *connect* covers looking up the name, connecting, a proxy and TLS; *first_byte* what
    follows, up to the first byte of the answer's body (servers send the head at once and
    are silent through the prefill); *idle* every silence after that.
    """

    connect: float = 10.0
    first_byte: float = 300.0
    idle: float = 60.0


@dataclass(slots=True)
class HTTPRequest:
    """A request to send; Host, Content-Length and Accept-Encoding are added to *headers*."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
