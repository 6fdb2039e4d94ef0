"""A provider's server whose every byte a test sends when it wants to."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from email import message_from_bytes
from types import TracebackType

from playback_server import DEADLINE, Asked


class Call:
    """One request that came, and the connection to answer it on."""

    def __init__(self, connection: socket.socket, asked: Asked, number: int) -> None:
        self.asked = asked
        #: Which connection it came on, counted from 0.
        self.number = number
        self._connection = connection
        self._answered = threading.Event()

    def head(self, kind: str, status: str = "200 OK", *more: str) -> None:
        """Send the head of an answer in chunked coding."""
        fields = [
            f"HTTP/1.1 {status}",
            f"Content-Type: {kind}",
            "Transfer-Encoding: chunked",
            *more,
        ]
        self._connection.sendall("\r\n".join([*fields, "", ""]).encode())

    def send(self, data: bytes) -> None:
        """Send *data* as a chunk of the body."""
        self._connection.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def finish(self) -> None:
        """Send the end of the body; the connection may be used again."""
        self._connection.sendall(b"0\r\n\r\n")
        self._answered.set()

    def cut(self) -> None:
        """Close the connection, wherever the answer is."""
        with contextlib.suppress(OSError):  # the other side was quicker
            self._connection.shutdown(socket.SHUT_RDWR)
        self._answered.set()

    def is_left(self) -> bool:
        """Whether the other side has closed, waiting for it."""
        try:
            left = self._connection.recv(1) == b""
        except ConnectionResetError:
            left = True
        self._answered.set()
        return left

    def wait(self) -> None:
        """Return once the answer is over."""
        self._answered.wait(DEADLINE)


class LiveUpstream:
    """Accepts connections and hands the test each request that comes."""

    def __init__(self) -> None:
        self._calls: queue.Queue[Call] = queue.Queue()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []

    def call(self) -> Call:
        """Return the next request, waiting for it."""
        return self._calls.get(timeout=DEADLINE)

    def __enter__(self) -> LiveUpstream:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            connection.close()
        for thread in self._threads:
            thread.join(DEADLINE)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(DEADLINE)
            self._connections.append(connection)
            self._start(self._serve, connection, len(self._connections) - 1)

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            while (asked := _read(connection)) is not None:
                call = Call(connection, asked, number)
                self._calls.put(call)
                call.wait()
        except OSError:
            return
        finally:
            connection.close()  # one that was idle for long, too: nobody answers on it


def _read(connection: socket.socket) -> Asked | None:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    line, _, fields = head.partition(b"\r\n")
    headers = message_from_bytes(fields)
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(65536)
    method, target, _ = line.decode("ascii").split(" ")
    return Asked(method, target, headers, body)
