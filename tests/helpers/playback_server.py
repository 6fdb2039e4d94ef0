"""A server that plays an answer's bytes to whoever connects, and keeps what was asked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from types import TracebackType

DEADLINE = 10.0


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    method: str
    target: str
    headers: Message
    body: bytes


class PlaybackServer:
    """Answers every request with *answer*, bytes of HTTP, and closes the connection.

    *answer* may be a function of the request, too.
    """

    def __init__(self, answer: bytes | Callable[[Asked], bytes]) -> None:
        self.asked: list[Asked] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> PlaybackServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(DEADLINE)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(DEADLINE)
                if self._read(connection):
                    answer = self._answer
                    connection.sendall(answer(self.asked[-1]) if callable(answer) else answer)
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(1)  # until it has been read

    def _read(self, connection: socket.socket) -> bool:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(65536)
            if not piece:
                return False
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        line, _, fields = head.partition(b"\r\n")
        headers = message_from_bytes(fields)
        if headers.get("expect"):
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(body) < int(headers.get("content-length", "0")):
            body += connection.recv(65536)
        method, target, _ = line.decode("ascii").split(" ")
        self.asked.append(Asked(method, target, headers, body))
        return True
