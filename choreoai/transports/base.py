"""What both transports share: what is done with a socket that never waits, and its failures."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from ..errors import APIConnectionError, APITimeoutError

T = TypeVar("T")
#: What is tried on a socket each time that it is ready, until it works.
Attempt = Callable[[socket.socket], T]

#: Some tens of frames: their objects are used while they are still in the processor's cache.
#: And a whole TLS record, so that none is left over in OpenSSL where no poll sees it.
BLOCK = 16 * 1024
_PIECE = 256 * 1024

#: What an attempt raises that has to wait.
NOT_READY = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Stalled(Exception):
    """A time limit passed."""


class Cancelled(Exception):
    """The call was given up by its caller."""


def unreachable(
    origin: str, why: object, *, timed_out: bool = False, hopeless: bool = False
) -> APIConnectionError:
    """Return the error for no connection; *hopeless* if another try would find the same."""
    kind = APITimeoutError if timed_out else APIConnectionError
    error = kind(f"{'could not connect' if timed_out else 'no connection'} to {origin}: {why}")
    error._hopeless = hopeless
    return error


def wants_to_write(error: OSError, write: bool) -> bool:
    """Return whether to wait for writing after *error*, one of NOT_READY; *write* is before it.

    Raises *error* if it is not the system's, but a signal handler's.
    """
    if error.errno is None:
        raise error
    return isinstance(error, ssl.SSLWantWriteError) if isinstance(error, ssl.SSLError) else write


class BaseWaiter:
    """Has *sock*, and waits for it on behalf of one task or thread at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def close(self, keep: bool = False) -> None:
        """Wait no more; close the socket, unless it is to be kept.  From any thread."""
        if not keep:
            self.sock.close()


def receive_some(sock: socket.socket) -> bytes:
    """Receive what is there, ``b""`` at the end."""
    try:
        return sock.recv(BLOCK)
    except ssl.SSLEOFError:
        return b""


def send_some(data: memoryview, sock: socket.socket) -> int:
    """Send what goes out at once; return how many bytes that were."""
    return sock.send(data[:_PIECE])


def shutdown(sock: socket.socket) -> None:
    """End both directions of *sock*: who waits for it goes on at once."""
    # The method of the plain socket: that of a TLS socket would take the TLS object away
    # from under a thread that is reading.
    plain: socket.socket = getattr(sock, "socket", sock)
    with suppress(OSError):
        socket.socket.shutdown(plain, socket.SHUT_RDWR)


class Nested:
    """TLS inside the TLS of a proxy: what is asked of a socket, without ever waiting.

    *socket* leads to the proxy; *tls* reads from *incoming* and writes to *outgoing*.
    """

    def __init__(
        self,
        socket: socket.socket,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
    ) -> None:
        self.socket = socket
        self.fileno, self.close = socket.fileno, socket.close
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._unsent = b""

    def do_handshake(self) -> None:
        self._fed(self._tls.do_handshake)
        self._flush()

    def send(self, data: memoryview) -> int:
        self._flush()
        sent = self._tls.write(data)
        with suppress(*NOT_READY):
            self._flush()  # what is left goes out before anything else is done
        return sent

    def recv(self, size: int) -> bytes:
        """Return all that is there: what stayed in here no poll would see."""
        self._flush()
        data = self._fed(lambda: self._tls.read(size))
        with suppress(ssl.SSLWantReadError):
            while more := self._tls.read(size):
                data += more
        return data

    def _fed(self, operation: Callable[[], T]) -> T:
        while True:
            try:
                return operation()
            except ssl.SSLWantReadError:
                self._flush()
            if data := self.socket.recv(BLOCK):
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    def _flush(self) -> None:
        while data := self._unsent or self._outgoing.read(BLOCK):
            self._unsent = data
            self._unsent = data[self.socket.send(data) :]
