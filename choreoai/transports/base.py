"""What both transports share: their errors, their settings, and the body of an answer."""

from __future__ import annotations

import socket
import zlib
from collections.abc import Mapping
from contextlib import suppress
from email.message import Message
from typing import NamedTuple, Union

import requests

from choreo_wsgi.upstream.framing import FramingError, framing_of

#: Some tens of frames: their objects are used while they are still in the processor's cache.
#: And a whole TLS record, so that none is left over in OpenSSL where no poll sees it.
BLOCK = 16 * 1024
_PIECE = 256 * 1024

_CODINGS = frozenset(("gzip", "x-gzip", "deflate"))


# None of these is an OSError: urllib3 would take one for its own and wrap it.
class Cut(Exception):
    """The connection ended before the body did."""


class Stalled(Exception):
    """A time limit passed."""


class Cancelled(Exception):
    """The call was given up by its caller."""


class Unreachable(Exception):
    """No connection: *timed_out* in time; *hopeless* if another try would find the same."""

    def __init__(self, why: str, *, timed_out: bool = False, hopeless: bool = False) -> None:
        super().__init__(why)
        self.timed_out = timed_out
        self.hopeless = hopeless


class Network(NamedTuple):
    """How connections are made: as the members of ``requests.Session`` of the same names."""

    proxies: Mapping[str, str] | None = None
    verify: Union[bool, str, None] = True
    cert: Union[str, tuple[str, str], None] = None
    trust_env: bool = True

    def session(self) -> requests.Session:
        """Return a session with these settings."""
        session = requests.Session()
        session.proxies.update(self.proxies or {})
        session.verify, session.cert = self.verify, self.cert
        session.trust_env = self.trust_env
        return session


class Body:
    """Takes the bytes of a connection and hands out those of the answer's body.

    A body in a coding that was not asked for (a proxy compressed it) is decoded.  Raises
    FramingError when the *headers* contradict themselves or name an unknown coding.
    """

    def __init__(self, method: str, status: int, headers: Message) -> None:
        self._framing = framing_of(method, status, headers)
        self._inflate = None
        self.closed = False  # the connection has ended
        coding = (headers.get("Content-Encoding") or "identity").strip().lower()
        if coding in _CODINGS:
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
        elif coding != "identity" and not self._framing.done:
            raise FramingError(f"the coding {coding[:50]!r}, which was not asked for")

    @property
    def done(self) -> bool:
        """Whether the body is complete."""
        return self._framing.done

    @property
    def reusable(self) -> bool:
        """Whether the connection can carry another answer."""
        return self._framing.done and not (self.closed or self._framing.excess)

    def feed(self, data: bytes) -> bytes:
        """Return what *data* adds to the body; ``b""`` is the end of the connection.

        Raises Cut when the body cannot be complete.
        """
        framing = self._framing
        try:
            body = framing.feed(data)
            if not body and framing.error is not None:
                raise framing.error
            if not data:
                self.closed = True
                framing.end()
            return self._inflate.decompress(body) if self._inflate and body else body
        except (FramingError, zlib.error) as error:
            raise Cut(str(error)) from error


def receive_some(sock: socket.socket) -> bytes:
    """Receive what is there: an attempt for a waiter."""
    return sock.recv(BLOCK)


def send_some(data: memoryview, sock: socket.socket) -> int:
    """Send what goes out at once; return how many bytes that were."""
    return sock.send(data[:_PIECE])


def shutdown(sock: socket.socket) -> None:
    """End both directions of *sock*; a thread that waits for it goes on at once."""
    # The method of the plain socket: that of a TLS socket would take the TLS object away
    # from under a thread that is reading.  TLS within TLS is no socket, but has one.
    plain: socket.socket = getattr(sock, "socket", sock)
    with suppress(OSError):
        socket.socket.shutdown(plain, socket.SHUT_RDWR)
