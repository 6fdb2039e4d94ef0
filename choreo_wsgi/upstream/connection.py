"""One connection: a socket, perhaps with TLS on it, that never makes anyone wait unasked."""

from __future__ import annotations

import contextlib
import functools
import select
import socket
import ssl
import struct
import sys
from collections.abc import Callable

from .address import Address
from .framing import Framing

POLLIN = getattr(select, "POLLIN", 1)
POLLOUT = getattr(select, "POLLOUT", 4)

#: Read at once.  Below 128 KiB, where malloc would begin to map and unmap each buffer.
BLOCK = 128 * 1024 - 64

_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)
# Under a server with a thread a stream (waitress-serve, gunicorn) a blocking recv() that the
# kernel ends saves the poll() before each: a quarter of the CPU of a stream at 20 frames a second.
_KERNEL_TIMES = sys.platform == "linux"


class TLS:
    """TLS between two byte buffers, so that the socket under it is read like any other."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self.ended = False

    def handshake(self) -> bool:
        """Go on with the handshake; return whether it is over.  Raises ssl.SSLError."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def feed(self, data: bytes) -> None:
        """Take what the socket gave, ``b""`` for its end."""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def decrypt(self) -> bytes:
        """Return all that can be read by now; ``ended`` turns true at the end."""
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
        """Write *data*, to be sent as :meth:`outgoing`."""
        self._tls.write(data)

    def outgoing(self) -> bytes:
        """Return what must be sent next."""
        return self._outgoing.read()


class Connection:
    """A connection to *address*; *sock* is None until there is one.

    Only the thread that reads calls anything but :meth:`abort`.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.sock: socket.socket | None = None
        self.tls: TLS | None = None
        self.reused = False
        self.idle_since = 0.0
        #: The rest of the last answer, when it was left before its end mark came.
        self.framing: Framing | None = None
        #: Seconds that it took to connect, when there was nothing to be looked up any more.
        self.round_trip = 0.0
        self._poll: select.epoll | None = None
        self._polled: tuple[socket.socket, int] | None = None  # what it is made for
        self._parts: list[memoryview] = []  # to be sent behind what goes out now
        self._outgoing = memoryview(b"")
        self._kernel_time = -1.0

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
        """Return a descriptor that turns readable when *events* have come, None if none does.

        Who polls for many polls for reading only; an epoll can itself be polled.
        """
        number = -1 if self.sock is None else self.sock.fileno()
        if self.sock is None or number < 0:
            return None
        if events == POLLIN:
            return number
        if self._polled != (self.sock, events):
            self._poll = None
            with contextlib.suppress(OSError, AttributeError):  # no descriptor is left, or no epoll
                self._poll = select.epoll(1)
                self._poll.register(self.sock, events)
                self._polled = (self.sock, events)
        return self._poll.fileno() if self._poll is not None else None

    def established(self, tcp: bool) -> None:
        """Leave the connecting behind."""
        assert self.sock is not None
        if tcp:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def queue(self, *parts: bytes) -> None:
        """Take *parts* to be sent by :meth:`flush`; they are neither joined nor encrypted yet."""
        self._parts += map(memoryview, parts)

    def flush(self) -> bool:
        """Send what the socket takes without waiting; return whether that was all.

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
        self._outgoing = memoryview(b"")  # an empty slice would hold all that was sent
        self._poll = self._polled = None
        return True

    def _next_part(self) -> memoryview:
        part = self._parts.pop(0)
        if self.tls is None:
            return part
        if len(part) > BLOCK:
            self._parts.insert(0, part[BLOCK:])
        self.tls.encrypt(part[:BLOCK])
        return memoryview(self.tls.outgoing())

    def handshake(self) -> bool:
        """Go on with the TLS handshake; return whether it is over.  Raises OSError."""
        assert self.tls is not None
        over = self.tls.handshake()
        self.queue_raw(self.tls.outgoing())
        return over

    def queue_raw(self, data: bytes) -> None:
        """Take *data*, encrypted already, to be sent by :meth:`flush`."""
        if data:
            left = self._outgoing
            self._outgoing = memoryview(bytes(left) + data if left else data)

    def receive(self, timeout: float) -> bytes | None:
        """Return what came within *timeout* seconds, None when nothing, ``b""`` at the end.

        Raises OSError.
        """
        sock, tls = self.sock, self.tls
        assert sock is not None
        if tls is not None and tls.ended:
            return b""
        try:
            if timeout <= 0:
                data = sock.recv(BLOCK, _DONT_WAIT)
            elif _KERNEL_TIMES:
                if timeout != self._kernel_time:
                    self._set_kernel_time(sock, timeout)
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
        self.queue_raw(tls.outgoing())  # an answer to a key update
        self.flush()
        return plain if plain or tls.ended else None

    def receiver(self) -> Callable[[], bytes | None]:
        """Return a quick ``receive(0)``; it may raise BlockingIOError for None."""
        if self.tls is not None or self.sock is None:
            return functools.partial(self.receive, 0)
        return functools.partial(self.sock.recv, BLOCK, _DONT_WAIT)

    def receive_raw(self) -> bytes | None:
        """Return the socket's own bytes that are there, None when there are none."""
        assert self.sock is not None
        try:
            return self.sock.recv(BLOCK, _DONT_WAIT)
        except BlockingIOError:
            return None

    def _set_kernel_time(self, sock: socket.socket, timeout: float) -> None:
        if self._kernel_time < 0:
            sock.setblocking(True)  # nobody has waited yet
        # 0 would be for ever.
        whole, part = divmod(max(round(timeout * 1e6), 1), 1_000_000)
        packed = struct.pack("@ll", whole, part)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, packed)
        self._kernel_time = timeout

    def settled(self) -> bool:
        """Whether an idle connection can take a request: open, silent, its answer at an end."""
        try:
            while (data := self.receive(0)) is not None:
                framing = self.framing
                if not data or framing is None or framing.done:
                    return False
                if framing.feed(data) or framing.error or framing.excess:
                    return False
        except OSError:
            return False
        return self.framing is None or self.framing.done

    def abort(self) -> None:
        """Break the connection off, from any thread: whoever waits for it wakes up."""
        sock = self.sock
        if sock is not None:
            with contextlib.suppress(OSError):  # not connected, or closed already
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket; nothing is said to the other side's TLS."""
        if self.sock is not None:
            self.sock.close()
