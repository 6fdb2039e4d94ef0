"""A TCP proxy that records the bytes sent to its clients, and can be killed."""

from __future__ import annotations

import contextlib
import socket
import threading

from harness import DEADLINE, wait_until


class Proxy:
    """Forwards bytes between its clients and the server on *port*; ``seen`` is all sent back."""

    def __init__(self, port: int) -> None:
        self.seen = b""
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._upstreams: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def wait_for_pings(self, count: int) -> None:
        """Return once *count* pings have been forwarded."""
        wait_until(lambda: self.seen.count(b": ping\n") >= count, f"{count} pings")

    def kill(self) -> None:
        """Cut all connections, those to the server with a reset."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(DEADLINE)
        self._listener.close()
        for upstream in self._upstreams:
            linger = b"\1\0\0\0\0\0\0\0"
            with contextlib.suppress(OSError):
                upstream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                upstream.shutdown(socket.SHUT_RD)
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive(), "a connection does not end"

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *raised: object) -> None:
        self.kill()

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
            upstream = socket.create_connection(("127.0.0.1", self._server), DEADLINE)
            upstream.settimeout(None)
            self._upstreams.append(upstream)
            self._start(self._serve, client, upstream)

    def _serve(self, client: socket.socket, upstream: socket.socket) -> None:
        with client, upstream:
            back = threading.Thread(target=self._pass, args=(upstream, client), daemon=True)
            back.start()
            self._pass(client, upstream)
            back.join(DEADLINE)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source in self._upstreams:
                    self.seen += data
                sink.sendall(data)
        # close() alone would not wake the thread of the other direction.
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
