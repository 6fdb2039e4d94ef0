"""One request and its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Timeouts:
    """How long to wait, in seconds; the names of the settings without ``_timeout``.

    *connect* covers looking up the name, connecting, a proxy and TLS; *first_byte* what
    follows, up to the first byte of the answer's body; *idle* every silence after that.
    """

    connect: float = 10.0
    first_byte: float = 300.0
    idle: float = 60.0


@dataclass(frozen=True)
class HTTPRequest:
    """A request to send; Host, Content-Length and Accept-Encoding are added to *headers*."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Exchange:
    """A request under way and its answer.

    *status* and *reason* are None and *headers* is empty until the answer's head came.
    """

    status: int | None = None
    reason: str | None = None
    headers: Mapping[str, str]  # its keys are found in any case
    #: Whether the body was returned to its end.
    ended: bool = False

    def receive(self, timeout: float) -> bytes:
        """Return the body's bytes that came within *timeout* seconds, chunking undone.

        ``b""`` when nothing came in time; ``receive(0)`` never blocks.  What came before a
        failure is returned first.  Raises ProviderTimeout, ProviderUnavailable (no
        connection, or it broke before the answer), UpstreamTruncated (it broke inside the
        answer), UpstreamInvalid (not HTTP), and ConfigurationError for a wrong address.
        """
        raise NotImplementedError

    def fileno(self) -> int | None:
        """Return the file descriptor to poll, or None when only asking tells."""
        raise NotImplementedError

    @property
    def events(self) -> int:
        """What to poll the file descriptor for: ``select.POLLIN`` or ``select.POLLOUT``."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the connection, in whatever phase, from any thread, as often as wanted."""
        raise NotImplementedError
