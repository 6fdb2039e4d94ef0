"""A server whose bytes are all written by a test: an upstream that behaves or misbehaves.

It answers in one of these ways::

    RawServer(lambda peer: peer.send(chunked(EVENTS), cut=100))  # each request in the same way
    RawServer.playing(b"HTTP/1.1 200 OK\\r\\n...")  # the same, and then closes the connection
    server = RawServer(); server.then(first, second)  # one after the other, then the last again
    server = RawServer(); server.call().head().body(b"...")  # from the test's own thread

A function is called with its :class:`Peer` on the connection's own thread.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from email import message_from_string
from pathlib import Path
from typing import Any

from harness import DEADLINE


class Request:
    """A request as it was received: *head* with its empty line, *body*."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.head = head
        self.body = body
        first, _, fields = head.partition(b"\r\n")
        self.line = first.decode("latin-1")
        self.method, self.path, _ = self.line.split(" ")
        self.headers = message_from_string(fields.decode("latin-1"))

    def json(self) -> Any:
        return json.loads(self.body)


class Peer:
    """One request at the server's side, and the methods to answer it."""

    def __init__(self, sock: socket.socket, request: Request, number: int) -> None:
        self.sock = sock
        self.request = request
        #: The number of its connection, counted from 1.
        self.number = number
        #: Set when the answer has ended in any way.
        self.over = threading.Event()
        #: Whether the answer's framing allows another one on the same connection.
        self.keep = False
        self._chunked = False

    # -- bytes ----------------------------------------------------------------------------

    def send(self, data: bytes, *, cut: int | None = None, piece: int | None = None) -> None:
        """Send *data*, *piece* bytes at a time; with *cut* only that many, and then close."""
        data = data if cut is None else data[:cut]
        step = piece or len(data) or 1
        for at in range(0, len(data), step):
            self.sock.sendall(data[at : at + step])
        if cut is not None:
            self.close()

    def close(self) -> None:
        """Close the connection normally."""
        with contextlib.suppress(OSError):
            self.sock.close()
        self.over.set()

    def cut(self) -> None:
        """Shut the connection down in both directions, which wakes a thread that reads from it."""
        with contextlib.suppress(OSError):
            _bare(self.sock).shutdown(socket.SHUT_RDWR)
        self.over.set()

    def reset(self) -> None:
        """Close the connection with RST."""
        linger = struct.pack("ii", 1, 0)
        _bare(self.sock).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close()

    def is_left(self, seconds: float = DEADLINE) -> bool:
        """Return whether the client closes its side within *seconds*."""
        self.sock.settimeout(seconds)
        try:
            while self.sock.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        self.over.set()
        return True

    def wait_until_left(self) -> None:
        """Return when the client has closed its side; fail if it does not."""
        assert self.is_left(), "the client does not leave"

    # -- an answer ------------------------------------------------------------------------

    def head(
        self,
        status: str = "200 OK",
        kind: str = "text/event-stream",
        *,
        framing: str | int = "chunked",
        **headers: str,
    ) -> Peer:
        """Send a head; *framing* is ``chunked``, ``close`` or the body's length."""
        lines = {"chunked": "Transfer-Encoding: chunked", "close": "Connection: close"}
        more = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self._chunked = framing == "chunked"
        self.send(head(status, kind, *more, lines.get(str(framing), f"Content-Length: {framing}")))
        return self

    def body(self, data: bytes) -> Peer:
        """Send *data* of the body, as a chunk if the head has the chunked coding."""
        self.send(chunk(data) if self._chunked else data)
        return self

    def frame(self, value: Any, id: int | None = None) -> None:
        self.body(frame(value, id))

    def end(self) -> None:
        """End the body as its framing requires."""
        if self._chunked:
            self.send(b"0\r\n\r\n")
            self.keep = True
        self.over.set()

    def stream(
        self, values: Iterable[Any], *, framing: str | int = "chunked", done: bool = True
    ) -> None:
        """Answer with a stream of *values*."""
        self.head(framing=framing)
        for value in values:
            self.frame(value)
        if done:
            self.frame("[DONE]")
        self.end()

    def json(self, value: Any, status: str = "200 OK", **headers: str) -> None:
        """Answer with the document *value*."""
        data = json.dumps(value).encode()
        self.head(status, "application/json", framing=len(data), **headers)
        self.send(data)
        self.keep = True
        self.over.set()


Answer = Callable[[Peer], object]


class RawServer:
    """Answers on a free loopback port, or on the unix socket *path*; with TLS by *context*.

    ``requests`` are those received, ``accepted`` is the number of connections, ``open`` that of
    the open ones, ``failures`` are the exceptions of the answering functions.
    """

    def __init__(
        self, answer: Answer | None = None, *, path: str = "", context: ssl.SSLContext | None = None
    ) -> None:
        self.requests: list[Request] = []
        self.scripts: list[Answer] = []
        self.accepted = 0
        self.open = 0
        self.failures: list[BaseException] = []
        self.answer = answer
        self._calls: queue.Queue[Peer] = queue.Queue()
        self._handed_over: list[Peer] = []
        self._context = context
        self._changed = threading.Condition()
        self._socks: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        if path:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(path)
            self._listener.listen(64)
            self.url = "http://localhost"
        else:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
            self.port = self._listener.getsockname()[1]
            self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        self._spawn(self._accept)

    @property
    def base_url(self) -> str:
        """The URL including ``/v1``."""
        return f"{self.url}/v1"

    @classmethod
    def playing(cls, answer: bytes | Callable[[Request], bytes]) -> RawServer:
        """Return a server that answers every request with *answer*, or with its result."""

        def play(peer: Peer) -> None:
            peer.send(answer(peer.request) if callable(answer) else answer)
            peer.sock.shutdown(socket.SHUT_WR)
            peer.is_left()
            peer.close()

        return cls(play)

    def then(self, *scripts: Answer) -> None:
        """Answer the next requests with one of *scripts* each."""
        self.scripts += scripts

    def call(self) -> Peer:
        """Wait for the next request and return it; the test answers it."""
        return self._calls.get(timeout=DEADLINE)

    def wait(self, condition: Callable[[], bool]) -> bool:
        """Wait until *condition()* is true, checked after each request or change of connections."""
        with self._changed:
            return self._changed.wait_for(condition, DEADLINE)

    def __enter__(self) -> RawServer:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()
        if raised[0] is None and self.failures:
            raise self.failures[0]

    def close(self) -> None:
        """Close all connections and end all threads."""
        # shutdown() wakes a thread in accept(), close() does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self._handed_over:
            peer.over.set()
        for sock in list(self._socks):
            with contextlib.suppress(OSError):
                _bare(sock).shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive(), "an answer does not end"

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _note(self, connections: int = 0) -> None:
        with self._changed:
            self.open += connections
            self.accepted += max(connections, 0)
            self._changed.notify_all()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._note(1)
            self._spawn(self._serve, sock, self.accepted)

    def _serve(self, sock: socket.socket, number: int) -> None:
        self._socks.add(sock)
        try:
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                self._socks.discard(sock)
                sock = self._context.wrap_socket(sock, server_side=True)
                self._socks.add(sock)
            while sock.fileno() >= 0:
                peer = Peer(sock, _read_request(sock), number)
                with self._changed:
                    self.requests.append(peer.request)
                    script = self._next()
                    self._changed.notify_all()
                script(peer)
                if script is not self.answer and not peer.keep:
                    return
        except OSError:
            pass  # the client closed the connection, as intended by some tests
        except BaseException as error:
            self.failures.append(error)
        finally:
            self._socks.discard(sock)
            with contextlib.suppress(OSError):
                sock.close()
            self._note(-1)

    def _next(self) -> Answer:
        if self.answer is not None:
            return self.answer
        if self.scripts:
            return self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        return self._hand_over

    def _hand_over(self, peer: Peer) -> None:
        self._handed_over.append(peer)
        self._calls.put(peer)
        peer.over.wait(3 * DEADLINE)


def _bare(sock: socket.socket) -> socket.socket:
    """Return *sock* with the methods of a plain socket: those of TLS send a closing alert."""
    return super(ssl.SSLSocket, sock) if isinstance(sock, ssl.SSLSocket) else sock  # type: ignore[return-value]


def _read_request(sock: socket.socket) -> Request:
    def some() -> bytes:
        data = sock.recv(65536)
        if not data:
            raise ConnectionError("closed before or within a request")
        return data

    data = b""
    while b"\r\n\r\n" not in data:
        data += some()
    head, _, body = data.partition(b"\r\n\r\n")
    request = Request(head + b"\r\n\r\n", b"")
    if request.headers.get("expect"):
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    pieces = [body]
    remaining = int(request.headers.get("content-length", "0")) - len(body)
    while remaining > 0:
        pieces.append(some())
        remaining -= len(pieces[-1])
    request.body = b"".join(pieces)
    return request


# -- bytes of answers ------------------------------------------------------------------------


def head(status: str = "200 OK", kind: str = "text/event-stream", *lines: str) -> bytes:
    """Return a response head."""
    fields = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", *lines]
    return ("\r\n".join(fields) + "\r\n\r\n").encode()


def chunk(data: bytes) -> bytes:
    """Return *data* as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked(pieces: Iterable[bytes], status: str = "200 OK") -> bytes:
    """Return a whole chunked answer with each of *pieces* as a chunk."""
    body = b"".join(chunk(piece) for piece in pieces if piece) + b"0\r\n\r\n"
    return head(status, "text/event-stream", "Transfer-Encoding: chunked") + body


def until_close(pieces: Iterable[bytes], status: str = "200 OK") -> bytes:
    """Return an answer that ends with its connection."""
    return head(status, "text/event-stream", "Connection: close") + b"".join(pieces)


def sized(body: bytes, status: str = "200 OK", kind: str = "application/json") -> bytes:
    """Return an answer with Content-Length."""
    return head(status, kind, f"Content-Length: {len(body)}") + body


def frame(value: Any, id: int | None = None) -> bytes:
    """Return the event with *value*: a string as it is, any other value as JSON."""
    data = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return (f"data: {data}\n\n" if id is None else f"id: {id}\ndata: {data}\n\n").encode()


def chat_chunk(
    text: str | None = None, *, index: int = 0, finish: str | None = None, **members: Any
) -> dict[str, Any]:
    """Return a chat completion chunk with the content *text*."""
    delta: Mapping[str, Any] = {} if text is None else {"content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "m",
        "choices": [{"index": index, "delta": {**delta, **members}, "finish_reason": finish}],
    }


def answer(*texts: str) -> list[dict[str, Any]]:
    """Return the chat chunks of a whole answer."""
    return [
        chat_chunk("", role="assistant"),
        *(chat_chunk(text) for text in texts),
        chat_chunk(finish="stop"),
    ]


def certificate(folder: Path) -> tuple[ssl.SSLContext, str]:
    """Make a certificate for this machine; return a server's context and the file to trust."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(cert)]
    command = ["openssl", *options.split(), *names, *files]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, str(cert)
