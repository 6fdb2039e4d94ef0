"""One connection to a provider: a socket, with or without TLS, that blocks only when asked to.

TLS runs between two memory buffers (:class:`TLS`), so that one set of socket calls and timeouts
serves both.  The exchange that has acquired the connection owns its descriptors: the socket's
and, while it waits to write, that of an epoll, which a poller can poll for reading.
"""

from __future__ import annotations

import contextlib
import functools
import select
import socket
import ssl
import struct
import sys
from collections import deque
from collections.abc import Callable

from .address import Address
from .framing import Framing
from .request import Piece

POLLIN = getattr(select, "POLLIN", 1)
POLLOUT = getattr(select, "POLLOUT", 4)

#: Bytes per read.  From 128 KiB on malloc would map and unmap memory for each buffer.
BLOCK = 128 * 1024 - 64

_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)
# Under a server with a thread per stream (waitress-serve, gunicorn) a blocking recv() with the
# kernel's timeout replaces poll() and recv(): a quarter less CPU for 20 frames a second.
_KERNEL_TIMEOUTS = sys.platform == "linux"


class TLS:
    """The TLS protocol between two memory buffers; the caller moves their bytes to the socket."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self.ended = False

    def handshake(self) -> bool:
        """Continue the handshake; return whether it is complete.  Raises ssl.SSLError."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def feed(self, data: bytes) -> None:
        """Add bytes received from the socket, ``b""`` for its end."""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def decrypt(self) -> bytes:
        """Return all decrypted bytes; sets ``ended`` at the end of the stream."""
        pieces = []
        try:
            while piece := self._tls.read(65536):
                pieces.append(piece)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self.ended = True
        return b"".join(pieces)

    def encrypt(self, data: bytes | memoryview) -> None:
        """Encrypt *data*; :meth:`outgoing` then returns the bytes to send."""
        self._tls.write(data)

    def outgoing(self) -> bytes:
        """Return the encrypted bytes to send next."""
        return self._outgoing.read()


class Connection:
    """A connection to *address*; ``sock`` is None until connecting begins.

    Only the thread that receives may call other methods than :meth:`abort`.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.sock: socket.socket | None = None
        self.tls: TLS | None = None
        self.reused = False
        self.idle_since = 0.0
        #: The framing of the last answer, if the answer's end was not received yet.
        self.framing: Framing | None = None
        #: Seconds that connecting took, without the name lookup.
        self.round_trip = 0.0
        self._epoll: select.epoll | None = None
        self._polled: tuple[socket.socket, int] | None = None  # the epoll's socket and events
        self._outgoing = memoryview(b"")
        self._parts: deque[memoryview] = deque()  # to be encrypted and sent after _outgoing
        self._kernel_timeout = -1.0

    def wait(self, events: int, seconds: float) -> bool:
        """Wait until the socket is ready for one of *events*; return whether it is."""
        assert self.sock is not None
        seconds = max(seconds, 0.0)
        if not hasattr(select, "poll"):  # Windows
            reading, writing = ([self.sock] if events & one else [] for one in (POLLIN, POLLOUT))
            return any(select.select(reading, writing, writing, seconds))
        poll = select.poll()
        poll.register(self.sock, events)
        return bool(poll.poll(seconds * 1000))

    def fileno(self, events: int) -> int | None:
        """Return a descriptor that becomes readable on *events*, or None if there is none.

        The carrier polls for reading only; an epoll is readable when its events have occurred.
        """
        number = -1 if self.sock is None else self.sock.fileno()
        if self.sock is None or number < 0:
            return None
        if events == POLLIN:
            return number
        if self._polled != (self.sock, events):
            self._epoll = None
            with contextlib.suppress(OSError, AttributeError):  # no descriptor is left, or no epoll
                self._epoll = select.epoll(1)
                self._epoll.register(self.sock, events)
                self._polled = (self.sock, events)
        return self._epoll.fileno() if self._epoll is not None else None

    def established(self, tcp: bool) -> None:
        """Set the socket's options once it is connected."""
        assert self.sock is not None
        if tcp:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def queue(self, *parts: Piece) -> None:
        """Queue *parts*, which :meth:`flush` encrypts and sends."""
        self._parts += map(memoryview, parts)

    def flush(self) -> bool:
        """Send as much as the socket accepts at once; return whether all is sent.

        Raises OSError.
        """
        assert self.sock is not None
        try:
            while self._outgoing or self._parts:
                if not self._outgoing:
                    self._outgoing = self._next_part()
                sent = self.sock.send(self._outgoing, _DONT_WAIT)
                self._outgoing = self._outgoing[sent:]
        except BlockingIOError:
            return False
        self._outgoing = memoryview(b"")  # an empty slice would keep the sent bytes in memory
        self._epoll = self._polled = None
        return True

    def _next_part(self) -> memoryview:
        """Return the parts that fit in a block, or a block of the first, encrypted if need be."""
        some: list[memoryview] = []
        left = BLOCK
        while self._parts and len(self._parts[0]) <= left:
            some.append(self._parts.popleft())
            left -= len(some[-1])
        if not some:
            part = self._parts[0]
            some, self._parts[0] = [part[:BLOCK]], part[BLOCK:]
        block = some[0] if len(some) == 1 else memoryview(b"".join(some))
        if self.tls is None:
            return block
        self.tls.encrypt(block)
        return memoryview(self.tls.outgoing())

    def handshake(self) -> bool:
        """Continue the TLS handshake; return whether it is complete.  Raises OSError."""
        assert self.tls is not None
        over = self.tls.handshake()
        self.queue_raw(self.tls.outgoing())
        return over

    def queue_raw(self, data: bytes) -> None:
        """Queue *data*, encrypted already, before the other parts."""
        if data:
            unsent = self._outgoing
            self._outgoing = memoryview(bytes(unsent) + data if unsent else data)

    def receive(self, timeout: float) -> bytes | None:
        """Return the bytes received within *timeout* seconds: None on timeout, ``b""`` at the end.

        Raises OSError.
        """
        sock, tls = self.sock, self.tls
        assert sock is not None
        if tls is not None and tls.ended:
            return b""
        try:
            if timeout <= 0:
                data = sock.recv(BLOCK, _DONT_WAIT)
            elif _KERNEL_TIMEOUTS:
                if timeout != self._kernel_timeout:
                    self._set_kernel_timeout(sock, timeout)
                data = sock.recv(BLOCK)
            elif self.wait(POLLIN, timeout):
                data = sock.recv(BLOCK)
            else:
                return None
        except BlockingIOError:
            return None
        if tls is None:
            return data
        tls.feed(data)
        plain = tls.decrypt()
        self.queue_raw(tls.outgoing())  # the answer to a key update
        self.flush()
        return plain if plain or tls.ended else None

    def receiver(self) -> Callable[[], bytes | None]:
        """Return a faster ``receive(0)``, which may raise BlockingIOError instead of None."""
        if self.tls is not None or self.sock is None:
            return functools.partial(self.receive, 0)
        return functools.partial(self.sock.recv, BLOCK, _DONT_WAIT)

    def receive_raw(self) -> bytes | None:
        """Return the bytes that the socket has received, not decrypted; None if there are none."""
        assert self.sock is not None
        try:
            return self.sock.recv(BLOCK, _DONT_WAIT)
        except BlockingIOError:
            return None

    def _set_kernel_timeout(self, sock: socket.socket, timeout: float) -> None:
        if self._kernel_timeout < 0:
            sock.setblocking(True)  # at the first receive with a timeout
        # The kernel takes 0 for no timeout.
        whole, part = divmod(max(round(timeout * 1e6), 1), 1_000_000)
        packed = struct.pack("@ll", whole, part)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, packed)
        self._kernel_timeout = timeout

    def is_reusable(self) -> bool:
        """Return whether the idle connection is open, and its last answer ended cleanly."""
        try:
            while (data := self.receive(0)) is not None:
                framing = self.framing
                if not data or framing is None:
                    return False
                if framing.feed(data) or framing.excess:
                    return False
        except OSError:
            return False
        return self.framing is None or self.framing.done

    def abort(self) -> None:
        """Shut the socket down, from any thread: a thread that waits for it wakes up."""
        sock = self.sock
        if sock is not None:
            with contextlib.suppress(OSError):  # not connected, or closed already
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket, without a TLS closing alert."""
        if self.sock is not None:
            self.sock.close()
