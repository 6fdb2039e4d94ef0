"""SIGTERM and SIGINT, with the real command."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import harness
import pytest

DONE = b"data: [DONE]\n\n"
Start = Callable[..., Any]


def echo(words: int, **more: Any) -> dict[str, Any]:
    text = " ".join(f"w{number}" for number in range(words))
    return {"model": "echo", "messages": [{"role": "user", "content": text}], "stream": True} | more


def slow_echo(milliseconds: int) -> str:
    return f"[provider echo]\ntype = echo\nmodels = echo\ndelay_ms = {milliseconds}\n"


def begin(client: harness.Client, words: int) -> None:
    """Start a stream and wait for its first word."""
    client.request("POST", "/v1/chat/completions", echo(words))
    assert client.read_head().status == 200
    client.read_frame()
    client.read_frame()


def remaining_frames(client: harness.Client) -> list[bytes]:
    deadline = time.monotonic() + harness.DEADLINE
    frames = []
    while frame := client.read_frame():
        frames.append(frame)
        assert time.monotonic() < deadline, "the stream does not end"
    return frames


def await_drain(server: Any) -> None:
    def draining() -> bool:
        with server.connect() as client:
            return bool(client.exchange("GET", "/readyz").status == 503)

    harness.wait_until(draining, "/readyz returns 503")


def count_polls(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Return a semaphore that is released each time the server has to wait on."""
    polls = threading.Semaphore(0)

    def sleep(seconds: float) -> None:
        polls.release()
        time.sleep(seconds)

    clock = SimpleNamespace(sleep=sleep, monotonic=time.monotonic)
    monkeypatch.setattr("choreo_wsgi.serve.server.time", clock)
    return polls


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drain_lets_streams_complete(command: Start, number: int) -> None:
    server = command("--drain-seconds", "1000", ini=slow_echo(100))
    clients = [server.connect() for _ in range(5)]
    for client in clients:
        begin(client, 20)
    server.signal(number)
    for client in clients:
        assert remaining_frames(client)[-1] == DONE
        client.close()
    _, log = server.process.communicate(timeout=harness.DEADLINE)
    assert server.process.returncode == 0
    assert "shutting down: 5 streams have 1000 s" in log


def test_end_of_drain_ends_streams_with_error_frame(command: Start) -> None:
    server = command("--drain-seconds", "0.5", ini=slow_echo(100))
    with server.connect() as client:
        begin(client, 100_000)
        server.signal(signal.SIGTERM)
        frames = remaining_frames(client)
    assert b"server_shutting_down" in frames[-1]
    assert len(frames) < 100  # the default of 20 s would give 200
    assert sum(b'"error"' in frame for frame in frames) == 1
    assert DONE not in frames
    assert server.finish() == 0


def test_end_of_drain_ends_silent_streams_with_error_frame(command: Start) -> None:
    server = command("--drain-seconds", "0", ini=slow_echo(3_600_000))
    with server.connect() as client:
        client.request("POST", "/v1/chat/completions", echo(9))
        assert client.read_head().status == 200
        server.signal(signal.SIGTERM)
        assert b"server_shutting_down" in remaining_frames(client)[-1]
    assert server.finish() == 0


def test_draining_server_rejects_new_requests(command: Start) -> None:
    server = command("--drain-seconds", "1000", ini=slow_echo(100))
    running = server.connect()
    begin(running, 1000)
    with server.connect() as kept:
        assert kept.exchange("GET", "/readyz").status == 200
        server.signal(signal.SIGTERM)
        await_drain(server)
        # A kept connection is told to close.
        answer = kept.exchange("POST", "/v1/chat/completions", echo(1))
    assert answer.status == 503
    assert answer.error["code"] == "server_shutting_down"
    assert answer.headers["retry-after"]
    assert answer.headers["connection"] == "close"
    with server.connect() as client:
        assert client.exchange("GET", "/healthz").status == 200
    running.close()  # the last client disconnects: the drain ends
    assert server.finish() == 0


def test_second_signal_ends_drain_at_once(command: Start) -> None:
    server = command("--drain-seconds", "1000", ini=slow_echo(100))
    with server.connect() as client:
        begin(client, 100_000)
        server.signal(signal.SIGINT)
        await_drain(server)
        server.signal(signal.SIGINT)
        assert b"server_shutting_down" in remaining_frames(client)[-1]
    _, log = server.process.communicate(timeout=harness.DEADLINE)
    assert server.process.returncode == 0 and log.count("shutting down") == 1


def test_signal_delivered_to_other_thread_wakes_the_loop(command: Start, tmp_path: Path) -> None:
    """Like a signal that arrives just before the poll, it does not interrupt the poll by itself."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    lines = (
        "import pathlib, signal, threading",
        "def deliver():",
        f"    pathlib.Path({str(pipe)!r}).read_bytes()",
        "    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)",
        "threading.Thread(target=deliver, daemon=True).start()",
    )
    (tmp_path / "sitecustomize.py").write_text("\n".join(lines))
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    server = command(PYTHONPATH=path)
    with server.connect() as client:
        assert client.exchange("GET", "/healthz").status == 200
    state = Path(f"/proc/{server.process.pid}/stat")
    harness.wait_until(
        lambda: state.read_text().rpartition(")")[2].split()[0] == "S", "the main thread sleeps"
    )
    pipe.write_bytes(b"now")
    assert server.finish() == 0


def test_exits_by_force_when_close_hangs(
    run_app: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As when a provider's close does not return."""
    left = threading.Event()
    released = threading.Event()

    def leave(status: int) -> None:
        assert status == 0
        left.set()
        released.set()

    monkeypatch.setattr("choreo_wsgi.serve.server.os._exit", leave)
    monkeypatch.setattr("choreo_wsgi.serve.server.FORCE", 0.2)
    monkeypatch.setattr("choreo_wsgi.serve.server.LAST_FRAMES", 0.2)
    running = run_app(lambda environ, start_response: [])
    running.app.close = lambda: released.wait(harness.DEADLINE)
    running.server.drain()
    assert left.wait(harness.DEADLINE)
    assert "the shutdown hangs: the process is ended" in caplog.text


def test_shutdown_calls_drain_stop_close_in_order(run_app: Any) -> None:
    running = run_app(lambda environ, start_response: [])
    running.close()
    assert running.app.calls == ["drain", "stop", "close"]


def start_retirement(server: Any) -> threading.Thread:
    """Return the thread in which *server* retires."""
    retiring = threading.Thread(target=server.retire, daemon=True)
    retiring.start()
    return retiring


def test_signal_during_retirement_drains_once(
    run_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request that retirement waits for ends with the drain."""
    polls, answer = count_polls(monkeypatch), threading.Event()

    def handler(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        answer.wait(harness.DEADLINE)
        return [b"all"]

    running = run_app(handler)
    server, running.app.reload = running.server, lambda: None
    with running.connect() as client:
        client.request("GET", "/")
        harness.wait_until(
            lambda: [one for one in server.connections if one.requests], "the request is received"
        )
        retiring = start_retirement(server)
        assert polls.acquire(timeout=harness.DEADLINE) and running.app.calls == []
        server._on_signal(signal.SIGTERM, None)
        answer.set()
        assert client.read_answer().body == b"all"
    retiring.join(harness.DEADLINE)
    assert not retiring.is_alive() and running.app.calls.count("drain") == 1


def test_retires_after_streams_without_client_end(
    run_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile connections are closed after their next response, and none is accepted."""
    polls = count_polls(monkeypatch)
    running = run_app(lambda environ, start_response: start_response("200 OK", []) or [b"all"])
    running.app.reload, running.app.active = lambda: None, 1
    with running.connect() as client:
        assert "connection" not in client.exchange("GET", "/").headers
        retiring = start_retirement(running.server)
        harness.wait_until(lambda: running.server.retired, "the server retires")
        late = running.connect()
        late.request("GET", "/")
        assert client.exchange("GET", "/").headers["connection"] == "close"
    harness.wait_until(lambda: not running.server.connections, "all are closed")
    while polls.acquire(blocking=False):
        pass
    assert all(polls.acquire(timeout=harness.DEADLINE) for _ in range(2))
    assert running.app.calls == []
    running.app.active = 0
    retiring.join(harness.DEADLINE)
    assert not retiring.is_alive() and running.app.calls.count("drain") == 1
    with late, contextlib.suppress(ConnectionResetError):
        assert late.at_end()


def test_retiring_server_answers_first_request_of_new_connection(
    run_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls = count_polls(monkeypatch)
    running = run_app(lambda environ, start_response: start_response("200 OK", []) or [b"all"])
    running.app.reload = lambda: None
    with running.connect() as client:
        harness.wait_until(lambda: running.server.connections, "the client is connected")
        retiring = start_retirement(running.server)
        assert all(polls.acquire(timeout=harness.DEADLINE) for _ in range(2))
        client.send(b"GET / HTTP/1.1\r\n")
        (channel,) = running.server.connections
        harness.wait_until(lambda: channel.request, "the request has begun")
        assert all(polls.acquire(timeout=harness.DEADLINE) for _ in range(2))
        client.send(b"Host: a\r\n\r\n")
        assert client.read_answer().body == b"all"
    retiring.join(harness.DEADLINE)  # its drain starts a thread
    assert not retiring.is_alive()


def test_retiring_server_answers_request_on_idle_connection(
    run_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls = count_polls(monkeypatch)
    running = run_app(lambda environ, start_response: start_response("200 OK", []) or [b"all"])
    running.app.reload = lambda: None
    with running.connect() as client:
        assert client.exchange("GET", "/").body == b"all"
        retiring = start_retirement(running.server)
        assert all(polls.acquire(timeout=harness.DEADLINE) for _ in range(2))
        answer = client.exchange("GET", "/")
        assert answer.body == b"all" and answer.headers["connection"] == "close"
    retiring.join(harness.DEADLINE)
    assert not retiring.is_alive()
