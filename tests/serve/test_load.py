"""Many clients at once, good and bad ones, against the real command."""

from __future__ import annotations

import contextlib
import errno
import json
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

Start = Callable[..., Any]

STREAMS = 256
FRAMES = 60


def ask(text: str, **more: Any) -> bytes:
    body = {"model": "echo", "messages": [{"role": "user", "content": text}], "stream": True}
    data = json.dumps(body | more).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data)
    )
    return head + data


class Reader:
    """Reads many raw answers at once, in the thread that asks for it."""

    def __init__(self, port: int, count: int, request: bytes) -> None:
        self.received: dict[socket.socket, bytearray] = {}
        self._selector = selectors.DefaultSelector()
        for _ in range(count):
            sock = socket.create_connection(("127.0.0.1", port), harness.DEADLINE)
            sock.sendall(request)
            self.received[sock] = bytearray()
            self._selector.register(sock, selectors.EVENT_READ)

    def read(self, until: Callable[[], bool]) -> None:
        """Read until *until()* or the end of all answers."""
        while self._selector.get_map() and not until():
            ready = self._selector.select(harness.DEADLINE)
            assert ready, "nothing comes any more"
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


def test_as_many_streams_as_allowed_at_once_and_not_one_more(command: Start) -> None:
    """256 streams of 60 frames at 5 frames/s lose nothing; the server answers meanwhile."""
    ini = "[provider echo]\ntype = echo\nmodels = echo\ndelay_ms = 200\n"
    server = command("--max-streams", str(STREAMS), ini=ini)
    words = [f"w{number} " for number in range(FRAMES)]
    reader = Reader(server.port, STREAMS, ask("".join(words).strip()))
    all_began = threading.Event()
    problems: list[str] = []

    def meanwhile() -> None:
        assert all_began.wait(3 * harness.DEADLINE)
        for _ in range(5):
            with server.connect(timeout=1.0) as client:  # /healthz within a second
                if client.exchange("GET", "/healthz").status != 200:
                    problems.append("/healthz")
            with server.connect(timeout=1.0) as client:
                client.send(ask("one too many"))
                answer = client.read_answer()
                if (answer.status, answer.error["code"]) != (503, "service_overloaded"):
                    problems.append(f"one too many got {answer}")
                if not answer.headers.get("retry-after"):
                    problems.append("no Retry-After")

    def began() -> bool:
        if all(b"content" in received for received in reader.received.values()):
            all_began.set()
        return all_began.is_set()

    failed: list[BaseException] = []

    def watched() -> None:
        try:
            meanwhile()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=watched)
    thread.start()
    try:
        reader.read(began)
        reader.read(lambda: False)
    finally:
        all_began.set()
        thread.join(harness.DEADLINE)
        reader.close()
    assert (failed, problems) == ([], [])
    expected = [json.dumps({"content": word})[1:-1].replace(": ", ":", 1) for word in words[:-1]]
    for received in reader.received.values():
        text = received.decode()
        assert text.startswith("HTTP/1.1 200 ")
        assert [piece for piece in expected if piece not in text] == []
        assert text.count("data: ") == FRAMES + 3  # the role, the finish, the end
        assert text.endswith("data: [DONE]\n\n\r\n0\r\n\r\n")


@contextlib.contextmanager
def stuck_clients(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Clients that ask for 4 MB of frames and read none; each has been sent some."""
    with contextlib.ExitStack() as stack:
        clients = []
        poll = stack.enter_context(selectors.DefaultSelector())
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", port))
            sock.sendall(ask("word " * 20_000))
            clients.append(sock)
            poll.register(sock, selectors.EVENT_READ)
        harness.wait_until(lambda: len(poll.select(0)) == count, "all streams begin", 30)
        yield clients


def test_clients_that_never_read_cost_little_and_are_cut_off(command: Start) -> None:
    """50 of them: under 30 MB, closed after send_timeout, good requests served meanwhile."""
    server = command("--send-timeout", "3", "--max-streams", "60")
    with server.connect() as client:
        assert client.exchange("GET", "/healthz").status == 200
        before = server.resident()
        most = 0
        with stuck_clients(server.port, 50) as clients:
            waiting = list(clients)

            def cut_off() -> bool:
                nonlocal most
                most = max(most, server.resident() - before)
                error = waiting[-1].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    assert error == errno.ECONNRESET
                    waiting.pop()
                assert client.exchange("GET", "/healthz").status == 200
                return not waiting

            harness.wait_until(cut_off, "they are cut off", 30)
        assert most < 30_000_000


def test_clients_that_never_read_do_not_hold_up_a_drain(command: Start) -> None:
    server = command("--drain-seconds", "0.5", "--max-streams", "60")
    with stuck_clients(server.port, 50):
        server.signal(signal.SIGTERM)
        assert server.finish() == 0


@pytest.mark.parametrize("attack", ["-H", "-B"])
def test_slow_senders_leave_good_requests_served(
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
        harness.wait_until(lambda: _count(descriptors) > 200, "the attack is on", 20)
        for _ in range(20):
            with server.connect() as client:
                client.send(ask("good words"))
                assert client.read_answer().body.endswith(b"data: [DONE]\n\n")
        assert _count(descriptors) > 200
    finally:
        attacker.terminate()
        attacker.wait(harness.DEADLINE)
    server.signal(signal.SIGTERM)
    assert server.finish() == 0


def _count(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())
