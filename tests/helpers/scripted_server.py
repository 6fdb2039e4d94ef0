"""An HTTP server that does exactly what a test says, byte by byte."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

DEADLINE = 20.0  # seconds after which a test that waits has failed

Script = Callable[["Peer"], None]


def chunk(text=None, *, index=0, finish=None, **members):
    """A chat completion chunk as a dictionary."""
    delta = {} if text is None else {"content": text}
    delta.update(members)
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "m",
        "choices": [{"index": index, "delta": delta, "finish_reason": finish}],
    }


def frame(value, id=None) -> bytes:
    data = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    lines = f"data: {data}\n\n" if id is None else f"id: {id}\ndata: {data}\n\n"
    return lines.encode()


def answer(*texts: str) -> list[dict]:
    """The chunks of a whole answer."""
    first = chunk("", role="assistant")
    return [first, *(chunk(text) for text in texts), chunk(finish="stop")]


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self):
        return json.loads(self.body)


class Peer:
    """The server's side of one request."""

    def __init__(self, sock: socket.socket, request: Request) -> None:
        self.sock = sock
        self.request = request
        self.keep = False
        self._chunked = False

    def raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def head(self, status="200 OK", *, framing="chunked", kind="text/event-stream", **headers):
        lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self._chunked = framing == "chunked"
        if framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
        elif framing == "close":
            lines.append("Connection: close")
        else:
            lines.append(f"Content-Length: {framing}")
        self.raw("\r\n".join([*lines, "", ""]).encode())

    def body(self, data: bytes) -> None:
        self.raw(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def frame(self, value, id=None) -> None:
        self.body(frame(value, id))

    def end(self) -> None:
        """End the body as its framing demands."""
        if self._chunked:
            self.raw(b"0\r\n\r\n")
            self.keep = True

    def stream(self, chunks, *, framing="chunked", done=True) -> None:
        self.head(framing=framing)
        for value in chunks:
            self.frame(value)
        if done:
            self.frame("[DONE]")
        self.end()

    def json(self, value, status="200 OK", **headers) -> None:
        data = json.dumps(value).encode()
        self.head(status, framing=len(data), kind="application/json", **headers)
        self.raw(data)
        self.keep = True

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def wait_until_left(self) -> None:
        """Return when the client has closed its side; fail if it does not."""
        self.sock.settimeout(DEADLINE)
        try:
            left = self.sock.recv(1)
        except (ConnectionError, ssl.SSLEOFError):
            return
        assert left == b"", f"the client sent {left!r} instead of leaving"

    def wait_for(self, event: threading.Event) -> None:
        assert event.wait(DEADLINE)

    def left_within(self, seconds: float) -> bool:
        """Return whether the client closes its side within *seconds*."""
        self.sock.settimeout(seconds)
        try:
            return self.sock.recv(1) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True


@dataclass
class ScriptedServer:
    """Serves one script after the other, a request each; the last one serves all further."""

    scripts: list[Script] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    errors: list[BaseException] = field(default_factory=list)
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._socks: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"
        self._spawn(self._accept)

    def then(self, *scripts: Script) -> None:
        self.scripts += scripts

    def close(self) -> None:
        # accept() does not return when its socket is closed, but when it is shut down.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._socks:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive(), "a script did not end"
        if self.errors:
            raise self.errors[0]

    def _spawn(self, target, *args) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._socks.append(sock)
            self._spawn(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True)
                with self._lock:
                    self._socks.append(sock)
            with sock, sock.makefile("rb") as file:
                while (request := _read_request(file)) is not None:
                    peer = Peer(sock, request)
                    with self._lock:
                        self.requests.append(request)
                        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
                    script(peer)
                    if not peer.keep:
                        return
        except (ConnectionError, BrokenPipeError):
            pass  # the client left, as some tests want it to
        except ssl.SSLError:
            pass  # a handshake that the client broke off
        except OSError as error:
            if error.errno != 9:  # closed by reset() or close()
                self.errors.append(error)
        except BaseException as error:
            self.errors.append(error)


def _read_request(file) -> Request | None:
    try:
        line = file.readline()
    except (ConnectionError, ValueError):
        return None
    if not line:
        return None
    method, path, _ = line.decode().split()
    headers = {}
    while (line := file.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    length = int(headers.get("content-length", "0"))
    return Request(method, path, headers, file.read(length))
