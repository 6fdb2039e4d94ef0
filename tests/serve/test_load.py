"""Many clients at once, well-behaved and hostile, against the real command."""

from __future__ import annotations

import contextlib
import json
import re
import selectors
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import pytest
from raw_server import Peer, RawServer, answer
from real_server import told_ini

Start = Callable[..., Any]

STREAMS = 256
FRAMES = 60


def request_bytes(text: str, model: str = "echo") -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": True}
    data = json.dumps(body).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data)
    )
    return head + data


class Reader:
    """Sends a request on many connections and reads all raw responses in one thread."""

    def __init__(self, port: int, count: int, request: bytes) -> None:
        self.received: dict[socket.socket, bytearray] = {}
        self._selector = selectors.DefaultSelector()
        for _ in range(count):
            sock = socket.create_connection(("127.0.0.1", port), harness.DEADLINE)
            sock.sendall(request)
            self.received[sock] = bytearray()
            self._selector.register(sock, selectors.EVENT_READ)

    def read(self, until: Callable[[], bool]) -> None:
        """Read until *until()* or the end of all responses."""
        while self._selector.get_map() and not until():
            ready = self._selector.select(harness.DEADLINE)
            assert ready, "no more bytes arrive"
            for key, _ in ready:
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                data = sock.recv(65536)
                self.received[sock] += data
                if not data:
                    self._selector.unregister(sock)

    def close(self) -> None:
        self._selector.close()
        for sock in self.received:
            sock.close()


def test_serves_max_streams_at_once_and_rejects_more(command: Start) -> None:
    """256 streams of 60 frames lose nothing; the server answers others meanwhile."""
    words = [f"w{number} " for number in range(FRAMES)]
    values = answer(*words)
    proceed = threading.Event()

    def serve(peer: Peer) -> None:
        peer.head()
        for value in values[:2]:
            peer.frame(value)
        assert proceed.wait(3 * harness.DEADLINE)
        for value in [*values[2:], "[DONE]"]:
            peer.frame(value)
        peer.end()

    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(RawServer(serve))
        server = command("--max-streams", str(STREAMS), ini=told_ini(upstream))
        reader = stack.enter_context(
            contextlib.closing(Reader(server.port, STREAMS, request_bytes("Hi", "told")))
        )
        stack.callback(proceed.set)
        reader.read(lambda: all(b"w0 " in received for received in reader.received.values()))
        for _ in range(5):
            with server.connect() as client:
                assert client.exchange("GET", "/healthz").status == 200
            with server.connect() as client:
                client.send(request_bytes("one too many", "told"))
                refused = client.read_answer()
            assert (refused.status, refused.error["code"]) == (503, "service_overloaded")
            assert refused.headers["retry-after"]
        proceed.set()
        reader.read(lambda: False)
    for received in reader.received.values():
        text = re.sub(r"(?m)^: ping\n", "", received.decode())
        assert text.startswith("HTTP/1.1 200 ")
        assert re.findall(r'"content": "(w\d+ )"', text) == words
        assert text.count("data: ") == FRAMES + 3  # the role, the finish, the end
        assert text.endswith("data: [DONE]\n\n\r\n0\r\n\r\n")


@contextlib.contextmanager
def stuck_clients(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Clients that request 4 MB of frames and read none; each has bytes to read."""
    with contextlib.ExitStack() as stack:
        clients = []
        poll = stack.enter_context(selectors.DefaultSelector())
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", port))
            sock.sendall(request_bytes("word " * 20_000))
            clients.append(sock)
            poll.register(sock, selectors.EVENT_READ)
        harness.wait_until(lambda: len(poll.select(0)) == count, "all streams begin")
        yield clients


def test_clients_that_never_read_use_little_memory_and_are_cut_off(command: Start) -> None:
    """50 of them: under 30 MB, closed after send_timeout, other requests served meanwhile."""
    server = command("--send-timeout", "3", "--max-streams", "60")
    descriptors = f"/proc/{server.process.pid}/fd"
    with server.connect() as client:
        assert client.exchange("GET", "/healthz").status == 200
        before, open_before = server.resident(), _count(descriptors)
        peak = 0
        with stuck_clients(server.port, 50) as clients:

            def cut_off() -> bool:
                nonlocal peak
                peak = max(peak, server.resident() - before)
                assert client.exchange("GET", "/healthz").status == 200
                return _count(descriptors) <= open_before

            harness.wait_until(cut_off, "they are cut off")
            for sock in clients:
                # Not earlier: a read would let the server send more.
                with pytest.raises(ConnectionResetError):
                    while sock.recv(65536):
                        pass
        assert peak < 30_000_000


def test_clients_that_never_read_do_not_delay_drain(command: Start) -> None:
    server = command("--drain-seconds", "0.5", "--max-streams", "60")
    with stuck_clients(server.port, 50):
        server.signal(signal.SIGTERM)
        assert server.finish() == 0


@pytest.mark.parametrize("attack", ["-H", "-B"])
def test_serves_others_during_slow_http_attack(
    command: Start, require_tool: Callable[[str, str], str], attack: str
) -> None:
    """slowhttptest with 200 connections: heads (slowloris) or bodies a few bytes at a time."""
    tool = require_tool("slowhttptest", "slowhttptest")
    server = command()
    url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
    words = [tool, attack, "-c", "200", "-r", "200", "-i", "1", "-l", "8", "-x", "10", "-u", url]
    attacker = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        descriptors = f"/proc/{server.process.pid}/fd"
        harness.wait_until(lambda: _count(descriptors) > 200, "the attack is on")
        for _ in range(20):
            with server.connect() as client:
                client.send(request_bytes("good words"))
                assert client.read_answer().body.endswith(b"data: [DONE]\n\n")
        assert _count(descriptors) > 200
    finally:
        attacker.terminate()
        attacker.wait(harness.DEADLINE)
    server.signal(signal.SIGTERM)
    assert server.finish() == 0


def _count(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())
