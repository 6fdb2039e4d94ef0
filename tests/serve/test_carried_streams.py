"""Streams that the loop carries without a thread: the same bytes and endings."""

from __future__ import annotations

import contextlib
import json
import math
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import harness
import pytest
from plain_apps import Running, body_app

from choreo_wsgi.serve.tasks import Task

#: Bytes of a frame; several of them are more than a socket accepts at once.
MANY = 4 * 1024

RunApp = Callable[..., Running]


class Tap:
    """A stream of the bytes that the test puts in, over a socket; empty bytes end it."""

    def __init__(self) -> None:
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.settimeout(harness.DEADLINE)
        self._gone: Callable[[], bool] = lambda: False
        self._begun = self.ended = False
        self.fails = False
        self.closed = threading.Event()

    def answer(self, environ: dict[str, Any], start_response: Any) -> Tap:
        self._gone = environ["waitress.client_disconnected"]
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return self

    def put(self, data: bytes) -> None:
        if data:
            self._outside.sendall(data)
        else:
            self._outside.shutdown(socket.SHUT_WR)

    def fileno(self) -> int | None:
        number = self._inside.fileno()
        return number if number >= 0 else None

    @property
    def due(self) -> float | None:
        return math.inf if self._begun else 0.0

    def ready(self, timeout: float = 0.0) -> bytes:
        if not self._begun:
            self._begun = True
            return b"begin"
        try:
            block = self._inside.recv(10_000_000)
        except BlockingIOError:
            self.ended = self._gone()
            return b""
        if self.fails:
            raise RuntimeError("in the middle")
        self.ended = not block
        return block

    def __iter__(self) -> Tap:
        return self

    def __next__(self) -> bytes:
        while not self.ended:
            block = self.ready()
            if block:
                return block
            select.select([self._inside], [], [], 0.25)
        raise StopIteration

    def close(self) -> None:
        self.closed.set()
        self._inside.close()

    def shut(self) -> None:
        self._inside.close()
        self._outside.close()


@pytest.fixture
def tap() -> Iterator[Tap]:
    one = Tap()
    yield one
    one.shut()


@pytest.fixture
def proceed() -> Iterator[threading.Event]:
    """Lets the responses to ``/blocked`` continue."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def inside() -> threading.Semaphore:
    """Released by each response to ``/blocked`` that holds a thread."""
    return threading.Semaphore(0)


@pytest.fixture
def server(
    run_app: RunApp, tap: Tap, proceed: threading.Event, inside: threading.Semaphore
) -> Running:
    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/plain":
            return body_app(b"plain")(environ, start_response)
        if environ["PATH_INFO"] == "/blocked":
            start_response("200 OK", [])
            return blocked()
        return tap.answer(environ, start_response)

    def blocked() -> Iterator[bytes]:
        inside.release()
        assert proceed.wait(3 * harness.DEADLINE)  # longer than a client waits for a frame
        yield b"continued"

    return run_app(handler)


def await_carried(running: Running, count: int = 1) -> None:
    """Wait until the loop carries *count* streams and no thread is busy."""
    carrier = running.server.carrier

    def carried() -> bool:
        return carrier.carried == count and not harness.busy(carrier.workers)

    harness.wait_until(carried, "the streams are carried")


def begin(server: Running, client: harness.Client) -> None:
    client.request("GET", "/")
    assert client.read_head().status == 200
    assert client.read_chunk() == b"begin"
    await_carried(server)


def test_waiting_stream_uses_no_thread(server: Running, tap: Tap) -> None:
    with server.connect() as client:
        begin(server, client)
        for number in range(5):
            frame = b"data: %d\n\n" % number
            tap.put(frame)
            assert client.read_chunk() == frame
            await_carried(server)
        tap.put(b"last")
        tap.put(b"")
        assert client.read_body() == b"last"
        assert tap.closed.wait(harness.DEADLINE)
        # The connection is kept.
        assert client.exchange("GET", "/plain").body == b"plain"


def test_client_that_does_not_read_causes_no_busy_loop(
    server: Running, tap: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop does not step its stream again and again."""
    steps = 0
    step = Task.step

    def counted(task: Task, patience: float) -> None:
        nonlocal steps
        steps += bool(task.channel.unsent)
        step(task, patience)

    monkeypatch.setattr(Task, "step", counted)
    with server.connect() as stuck, server.connect() as client, ThreadPoolExecutor() as pool:
        begin(server, stuck)
        putting = pool.submit(tap.put, bytes(32_000_000))
        try:
            (channel,) = (one for one in server.server.connections if one.task is not None)
            before = -1

            def waits() -> bool:
                nonlocal before
                before, last = steps, before
                return bool(channel.unsent) and before == last

            harness.wait_until(waits, "the kernel's buffers are full and the stream is not stepped")
            for _ in range(20):
                assert client.exchange("GET", "/plain").body == b"plain"
            assert steps <= before + 5
        finally:
            tap.shut()
            assert putting.exception(harness.DEADLINE)


def test_sends_frames_while_all_threads_are_busy(
    server: Running, tap: Tap, proceed: threading.Event, inside: threading.Semaphore
) -> None:
    workers = server.server.carrier.workers
    with ExitStack() as stack, server.connect() as client:
        begin(server, client)
        others = [stack.enter_context(server.connect()) for _ in range(workers.most + 1)]
        for other in others:
            other.request("GET", "/blocked")
        assert all(inside.acquire(timeout=harness.DEADLINE) for _ in range(workers.most))
        tap.put(b"data: 1\n\n")
        assert client.read_chunk() == b"data: 1\n\n"
        proceed.set()
        assert [other.read_answer().body for other in others] == [b"continued"] * len(others)


def test_request_pipelined_after_stream_waits_for_its_end(server: Running, tap: Tap) -> None:
    with server.connect() as client:
        begin(server, client)
        client.request("GET", "/plain")
        tap.put(b"more")
        assert client.read_chunk() == b"more"
        tap.put(b"")
        assert client.read_body() == b""
        assert client.read_answer().body == b"plain"


@pytest.mark.parametrize("how", ["close", "reset"])
def test_disconnect_closes_carried_stream(server: Running, tap: Tap, how: str) -> None:
    client = server.connect()
    begin(server, client)
    getattr(client, how)()
    assert tap.closed.wait(harness.DEADLINE)
    await_carried(server, 0)


@pytest.mark.parametrize("size", [MANY - 1, MANY, 16 * MANY])
def test_sends_large_blocks_completely(server: Running, tap: Tap, size: int) -> None:
    with server.connect() as client:
        begin(server, client)
        received = b""
        for round in range(3):
            tap.put(bytes([65 + round]) * size)
            while len(received) < (round + 1) * size:
                received += client.read_chunk()
            await_carried(server)
        tap.put(b"")
        assert client.read_body() == b""
    assert received == b"A" * size + b"B" * size + b"C" * size


def test_partial_sends_keep_block_order(server: Running, tap: Tap) -> None:
    """The rest of a partly sent block precedes the next block, at any border."""
    block = b"0123456789" * (MANY // 20)
    with server.connect() as client:
        begin(server, client)
        feeder = threading.Thread(target=lambda: [tap.put(block) for _ in range(5000)])
        feeder.start()
        total = 5000 * len(block)
        received = bytearray()
        while len(received) < total:
            received += client.read_chunk()
        feeder.join(harness.DEADLINE)
        tap.put(b"")
        assert client.read_body() == b""
    assert bytes(received) == b"0123456789" * (total // 10)


def test_failing_stream_omits_last_chunk(server: Running, tap: Tap) -> None:
    with server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await_carried(server)
        tap.fails = True
        tap.put(b"x")
        raw = harness.everything(client)
    assert raw.endswith(b"5\r\nbegin\r\n")
    assert tap.closed.is_set()


def test_http_1_0_stream_ends_with_connection(server: Running, tap: Tap) -> None:
    with server.connect() as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        await_carried(server)
        tap.put(b"more")
        await_carried(server)
        tap.put(b"")
        raw = harness.everything(client)
    assert raw.partition(b"\r\n\r\n")[2] == b"beginmore"


class Upstream:
    """An OpenAI-compatible provider on a socket, driven by the test."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(harness.DEADLINE)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def accept(self) -> socket.socket:
        """Accept a request; send the head and the first frame."""
        sock, _ = self._listener.accept()
        sock.settimeout(harness.DEADLINE)
        request = b""
        while not request.endswith(b"}"):
            request += sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        self.send(sock, "first")
        return sock

    @staticmethod
    def send(sock: socket.socket, text: str, finish: str | None = None) -> None:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1}
        data = json.dumps(chunk | {"model": "gpt-4", "choices": [choice]})
        sock.sendall(f"data: {data}\n\n".encode())

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    one = Upstream()
    yield one
    one.close()


def begin_relayed(client: harness.Client) -> None:
    message = {"role": "user", "content": "hello"}
    client.request(
        "POST",
        "/v1/chat/completions",
        {"model": "gpt-4", "messages": [message], "stream": True},
    )
    assert client.read_head().status == 200


def text_of(frame: bytes) -> str:
    return str(json.loads(frame.removeprefix(b"data: "))["choices"][0]["delta"]["content"])


def test_relayed_streams_end_with_done_or_with_drain(
    command: Callable[..., Any], upstream: Upstream
) -> None:
    server = command("--drain-seconds", "1000", OPENAI_API_KEY="x", OPENAI_BASE_URL=upstream.url)
    with contextlib.ExitStack() as stack:
        short, long = (stack.enter_context(server.connect()) for _ in range(2))
        sides = []
        for client in (short, long):
            thread = threading.Thread(target=begin_relayed, args=(client,))
            thread.start()
            sides.append(stack.enter_context(upstream.accept()))
            thread.join(harness.DEADLINE)
            assert text_of(client.read_frame()) == "first"
        for number in range(3):
            for client, side in zip((short, long), sides, strict=True):
                upstream.send(side, str(number))
                assert text_of(client.read_frame()) == str(number)
        server.signal(signal.SIGTERM)
        upstream.send(sides[0], "last", "stop")
        sides[0].close()
        assert short.read_body().endswith(b"data: [DONE]\n\n")
        server.signal(signal.SIGTERM)  # a second one ends the drain
        assert b"server_shutting_down" in long.read_frame()
        assert long.read_frame() == b""
    assert server.finish() == 0


def test_disconnect_closes_relayed_upstream(
    command: Callable[..., Any], upstream: Upstream
) -> None:
    server = command(OPENAI_API_KEY="x", OPENAI_BASE_URL=upstream.url)
    client = server.connect()
    thread = threading.Thread(target=begin_relayed, args=(client,))
    thread.start()
    with upstream.accept() as side:
        thread.join(harness.DEADLINE)
        assert text_of(client.read_frame()) == "first"
        client.close()
        assert side.recv(1) == b""
