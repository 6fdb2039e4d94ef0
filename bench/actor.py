"""A provider whose answer is defined by the question, and our server in front of it.

The question is JSON: ``{"frames": 20, "pause": 0.05}`` streams 20 words, 0.05 seconds apart;
``{"event": "kind"}`` sends one large event; ``{"fail": "status"}`` fails before the answer,
``"cut"`` closes the connection in its middle, and ``"error"`` sends an error event there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from choreo_wsgi.version import __version__

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
FAILURE = b'{"error":{"message":"as you wish","type":"server_error","code":null}}'


def chunked(data: bytes) -> bytes:
    """Return *data* as one chunk of a body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(delta: str, finish: str = "null", more: str = "") -> bytes:
    """Return a chat chunk as an event; the arguments are JSON texts."""
    return (
        'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
        f'"choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]{more}}}\n\n'
    ).encode()


#: Events of 7 MiB, just below the server's limit for one event.
EVENTS = {
    "one word": lambda: event('{"content":"%s"}' % ("x" * 7_000_000)),
    "escapes": lambda: event('{"content":"%s"}' % ("\\n" * 3_500_000)),
    "quotes": lambda: event('{"content":"%s"}' % ('\\"' * 3_500_000)),
    "pairs": lambda: event('{"content":"%s"}' % ("\\ud83d\\ude00" * 580_000)),
    "one emoji": lambda: event('{"content":"%s"}' % ("\U0001f600" + "x" * 7_000_000)),
    "lists": lambda: event("{}", more=',"x":[' + "[]," * 2_300_000 + "[]]"),
    "objects": lambda: event("{}", more=',"x":[' + "{}," * 2_300_000 + "{}]"),
    "deep": lambda: event("{}", more=',"x":' + "[" * 3_500_000),
    "numbers": lambda: event("{}", more=',"x":[' + "1.5," * 1_750_000 + "1]"),
    "as many values as allowed": lambda: event("{}", more=',"x":[' + '{"a":1},' * 15_400 + "1]"),
}


def word(number: int) -> str:
    """Return word *number* of every answer."""
    return f"word{number} "


def parsed(body: bytes) -> dict[str, Any]:
    """Return the request in *body*; of a large one only whether it requests a stream.

    Parsing a large one would delay the stream that is measured at the same time.
    """
    if len(body) < 1024 * 1024:
        return dict(json.loads(body or b"{}"))
    return {"messages": [{"content": "{}"}], "stream": re.search(rb'"stream": ?true', body)}


class Actor:
    """The provider, on a free port of the loopback interface."""

    def __init__(self) -> None:
        #: Whole HTTP responses by name, for questions that contain ``giant:NAME``.
        self.giants: dict[str, bytes] = {}
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as lines:
            while line := lines.readline():
                if line.startswith(b"GET /v1/models ") and "models" in self.giants:
                    connection.sendall(self.giants["models"])
                    return
                length = 0
                while (line := lines.readline()) not in (b"\r\n", b""):
                    name, _, value = line.partition(b":")
                    if name.lower() == b"content-length":
                        length = int(value)
                body = lines.read(length)
                if (at := body.find(b"giant:")) >= 0:
                    name = body[at + len("giant:") : body.index(b'"', at)].decode()
                    connection.sendall(self.giants[name])
                    return
                if not self._answer(connection, parsed(body)):
                    return

    def _answer(self, connection: socket.socket, body: dict[str, Any]) -> bool:
        """Answer the request *body*; return whether the connection stays open."""
        if "messages" not in body:
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return True
        try:
            orders = json.loads(body["messages"][-1]["content"])
        except ValueError:
            orders = {}
        if orders.get("fail") == "status":
            head = (
                b"HTTP/1.1 500 Oh\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            )
            connection.sendall(head % len(FAILURE) + FAILURE)
            return True
        frames = orders.get("frames", 3)
        if not body.get("stream"):
            text = "".join(map(word, range(frames)))
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            document = json.dumps(
                {"id": "c", "object": "chat.completion", "created": 1, "choices": [choice]}
            ).encode()
            kind = HEAD % b"application/json"
            connection.sendall(kind + chunked(document) + b"0\r\n\r\n")
            return True
        connection.sendall(HEAD % b"text/event-stream")
        connection.sendall(chunked(event('{"role":"assistant","content":""}')))
        if orders.get("event"):
            connection.sendall(chunked(EVENTS[orders["event"]]()))
        for number in range(frames):
            time.sleep(orders.get("pause", 0))
            connection.sendall(chunked(event(f'{{"content":"{word(number)}"}}')))
            if orders.get("fail") == "cut" and number == frames // 2:
                return False
            if orders.get("fail") == "error" and number == frames // 2:
                connection.sendall(chunked(b"data: " + FAILURE + b"\n\n") + b"0\r\n\r\n")
                return True
        connection.sendall(chunked(event("{}", '"stop"') + b"data: [DONE]\n\n") + b"0\r\n\r\n")
        return True


class Server:
    """Our server as a process, which listens on *port*."""

    def __init__(self, upstream: str, *options: str, module: str = "choreo_wsgi") -> None:
        environment = {**os.environ, "OPENAI_BASE_URL": upstream, "OPENAI_API_KEY": "sk-up"}
        words = [sys.executable, "-m", *module.split(), "serve", "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [*words, "--log-level", "error", *options],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        found = re.search(r"127\.0\.0\.1:(\d+)", self.process.stdout.readline())
        if found is None:
            raise RuntimeError(f"choreo-wsgi {__version__} did not start")
        self.port = int(found[1])

    @property
    def _proc(self) -> Path:
        return Path(f"/proc/{self.process.pid}")

    def memory(self, name: str = "VmRSS") -> int:
        """Return the number in the line *name* of /proc/PID/status: kB of memory, VmHWM: peak."""
        found = re.search(rf"^{name}:\s+(\d+)", (self._proc / "status").read_text(), re.MULTILINE)
        return int(found[1]) if found else 0

    def forget_peak(self) -> None:
        """Reset VmHWM."""
        (self._proc / "clear_refs").write_text("5")

    def threads(self) -> int:
        """Return the number of its threads."""
        return self.memory("Threads")

    def descriptors(self) -> int:
        """Return the number of its open descriptors."""
        return len(list((self._proc / "fd").iterdir()))

    def connect(self) -> socket.socket:
        """Return a connection to it."""
        connection = socket.create_connection(("127.0.0.1", self.port), 60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def close(self) -> int:
        """Stop it with SIGTERM; return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def served(*options: str) -> Iterator[Server]:
    """Run the actor and the server in front of it."""
    server = Server(Actor().url, *options)
    try:
        yield server
    finally:
        server.close()


def post(body: bytes, *fields: str, path: str = "/v1/chat/completions") -> bytes:
    """Return the bytes of a request."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        "Connection: close",
        *fields,
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chat(question: dict[str, Any], stream: bool = True, **more: Any) -> bytes:
    """Return the body of a chat completion request with *question*."""
    messages = [{"role": "user", "content": json.dumps(question)}]
    return json.dumps({"model": "m", "stream": stream, "messages": messages, **more}).encode()


def read(connection: socket.socket) -> bytes:
    """Return all bytes up to the end of the connection."""
    parts = []
    while part := connection.recv(1 << 18):
        parts.append(part)
    return b"".join(parts)
