"""A TCP relay that sees what a client is sent."""

from __future__ import annotations

import socket
import threading
from types import TracebackType

from harness import DEADLINE, wait_until


class Witness:
    """Passes the bytes between its clients and the server on *port*; ``seen`` is all sent back."""

    def __init__(self, port: int) -> None:
        self.seen = b""
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def wait_for_pings(self, count: int) -> None:
        """Return once *count* pings have been passed on."""
        wait_until(lambda: self.seen.count(b": ping\n") >= count, f"{count} pings came")

    def __enter__(self) -> Witness:
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
        with self._lock:
            for one in self._sockets:
                _shut(one)
        for thread in self._threads:
            thread.join(DEADLINE)
        for one in self._sockets:
            one.close()

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._port), DEADLINE)
            server.settimeout(None)
            with self._lock:
                self._sockets += [client, server]
            self._start(self._pass, client, server, False)
            self._start(self._pass, server, client, True)

    def _pass(self, source: socket.socket, sink: socket.socket, look: bool) -> None:
        try:
            while data := source.recv(65536):
                if look:
                    self.seen += data
                sink.sendall(data)
        except OSError:
            pass
        _shut(sink)


def _shut(one: socket.socket) -> None:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
