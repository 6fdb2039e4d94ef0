"""What an exchange is given: the request, how long to wait, and where connections come from."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from .connection import Connection

#: What a way to a connection or a head waits for, step by step: see :mod:`.connect`.
Steps = Generator[tuple[int, float], None, None]


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


class Lender(Protocol):
    """Where an exchange gets its connections and gives them back."""

    timeouts: Timeouts

    def take(self, fresh: bool) -> Connection:
        """Return a connection: an idle one, or one that is still to be connected."""

    def connect(self, connection: Connection, until: float) -> Steps:
        """Return the steps that connect *connection*."""

    def give_back(self, connection: Connection) -> None:
        """Take *connection* for the next exchange."""
