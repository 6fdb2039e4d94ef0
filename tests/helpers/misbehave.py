"""An upstream server that misbehaves on command: raw sockets, exact bytes.

::

    with Upstream(lambda peer: peer.send(chunked(EVENTS), cut=100)) as upstream:
        client.send(HTTPRequest("POST", upstream.url, ...))

The function is called for each request with its :class:`Peer`, on the connection's own
thread.  When it returns, the connection serves the next request, unless it was closed.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

DEADLINE = 10.0


class Gone(Exception):
    """The client closed the connection where a request could begin."""


class Request:
    """A request as it came: *head* with its empty line, *body*."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.head = head
        self.body = body

    @property
    def line(self) -> str:
        """The request line."""
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    def header(self, name: str) -> str | None:
        """The value of the header *name*, in any case; None when it was not sent."""
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None


class Peer:
    """One request at the server's side: what it was, and how to answer it."""

    def __init__(self, server: Upstream, sock: socket.socket, request: Request) -> None:
        self.server = server
        self.sock = sock
        self.request = request

    def send(self, data: bytes, *, cut: int | None = None, piece: int | None = None) -> None:
        """Send *data*, its first *cut* bytes only, then close; *piece* bytes at a time."""
        data = data if cut is None else data[:cut]
        step = piece or len(data) or 1
        for at in range(0, len(data), step):
            self.sock.sendall(data[at : at + step])
        if cut is not None:
            self.close()

    def close(self) -> None:
        """Close the connection in an orderly way."""
        with contextlib.suppress(OSError):
            self.sock.close()

    def reset(self) -> None:
        """Break the connection off with RST."""
        linger = struct.pack("ii", 1, 0)
        raw = self.server.raw(self.sock)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.sock.close()

    def wait_gone(self, seconds: float = DEADLINE) -> float | None:
        """Wait until the client has closed; return how many seconds it took, None if it did not."""
        began = time.monotonic()
        self.sock.settimeout(seconds)
        try:
            while self.sock.recv(65536):
                pass
        except TimeoutError:
            return None
        except OSError:
            pass
        return time.monotonic() - began


Answer = Callable[[Peer], None]


class Upstream:
    """Serves *answer* on a free loopback port, or on the unix socket *path*.

    *context* puts TLS on it.  ``requests`` are those that came, ``accepted`` counts the
    connections, ``open`` those that are not closed yet.
    """

    def __init__(
        self, answer: Answer, *, path: str = "", context: ssl.SSLContext | None = None
    ) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.accepted = 0
        self.open = 0
        self.failures: list[BaseException] = []
        self._context = context
        self._changed = threading.Condition()
        self._socks: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        if path:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(path)
            self.url = "http://localhost/v1/chat/completions"
        else:
            self._listener = socket.socket()
            self._listener.bind(("127.0.0.1", 0))
            self.port = self._listener.getsockname()[1]
            scheme = "https" if context else "http"
            self.url = f"{scheme}://localhost:{self.port}/v1/chat/completions"
            if not context:
                self.url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        self._listener.listen(64)
        self._closing = False
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def base_url(self) -> str:
        """The URL up to and with ``/v1``."""
        return self.url.removesuffix("/chat/completions")

    def __enter__(self) -> Upstream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._socks):
            with contextlib.suppress(OSError):
                self.raw(sock).shutdown(socket.SHUT_RDWR)
        self._acceptor.join(DEADLINE)
        for thread in self._threads:
            thread.join(DEADLINE)
        if error is None and self.failures:
            raise self.failures[0]

    def raw(self, sock: socket.socket) -> socket.socket:
        """Return *sock* without what TLS adds to it (closing would say goodbye)."""
        return super(ssl.SSLSocket, sock) if isinstance(sock, ssl.SSLSocket) else sock  # type: ignore[return-value]

    def wait(self, true: Callable[[], bool]) -> bool:
        """Wait until *true()* is, looked at whenever a connection or a request came or went."""
        with self._changed:
            return self._changed.wait_for(true, DEADLINE)

    def _note(self, connections: int = 0) -> None:
        with self._changed:
            self.open += connections
            self.accepted += max(connections, 0)
            self._changed.notify_all()

    def _accept(self) -> None:
        while not self._closing:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._note(1)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        self._socks.add(sock)
        try:
            if self._context is not None:
                bare = sock
                sock = self._context.wrap_socket(sock, server_side=True)
                self._socks.discard(bare)
                self._socks.add(sock)
            while sock.fileno() >= 0:
                peer = Peer(self, sock, _read_request(sock))
                with self._changed:
                    self.requests.append(peer.request)
                    self._changed.notify_all()
                self.answer(peer)
        except (Gone, OSError):
            pass
        except BaseException as error:
            self.failures.append(error)
        finally:
            self._socks.discard(sock)
            with contextlib.suppress(OSError):
                sock.close()
            self._note(-1)


def _read_request(sock: socket.socket) -> Request:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    request = Request(head + b"\r\n\r\n", b"")
    size = int(request.header("Content-Length") or 0)
    while len(body) < size:
        body += _some(sock)
    request.body = body
    return request


def _some(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise Gone
    return data


# -- answers ---------------------------------------------------------------------------


def head(status: str = "200 OK", kind: str = "text/event-stream", *lines: str) -> bytes:
    """Return a response head."""
    fields = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", *lines]
    return ("\r\n".join(fields) + "\r\n\r\n").encode()


def chunk(data: bytes) -> bytes:
    """Return *data* as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked(pieces: Iterable[bytes], status: str = "200 OK") -> bytes:
    """Return a whole chunked answer, each of *pieces* a chunk."""
    body = b"".join(chunk(piece) for piece in pieces if piece) + b"0\r\n\r\n"
    return head(status, "text/event-stream", "Transfer-Encoding: chunked") + body


def until_close(pieces: Iterable[bytes], status: str = "200 OK") -> bytes:
    """Return an answer whose end is the end of its connection."""
    return head(status, "text/event-stream", "Connection: close") + b"".join(pieces)


def sized(body: bytes, status: str = "200 OK", kind: str = "application/json") -> bytes:
    """Return an answer with Content-Length."""
    return head(status, kind, f"Content-Length: {len(body)}") + body


def certificate(folder: Path) -> tuple[ssl.SSLContext, str]:
    """Make a certificate for localhost; return a server's context and the file to trust."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(cert)]
    command = ["openssl", *options.split(), *names, *files]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, str(cert)
