"""Resources of the process: descriptors, threads, connections, socket options."""

from __future__ import annotations

import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import harness
import pytest
from plain_apps import Running, body_app

from choreo_wsgi.serve.listener import Listener
from choreo_wsgi.serve.server import RESERVE, SWITCH
from choreo_wsgi.settings import Settings

Start = Callable[..., Any]


@pytest.fixture
def usual_switching() -> Iterator[None]:
    """Python's default switch interval, restored after the test."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("usual_switching")
def test_shortens_thread_switch_interval(run_app: Callable[..., Running]) -> None:
    server = run_app(body_app(b"ok"))
    with server.connect() as client:
        assert client.exchange("GET", "/").body == b"ok"
    assert sys.getswitchinterval() == pytest.approx(SWITCH)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs Linux")
def test_sets_tcp_user_timeout_for_clients(run_app: Callable[..., Running]) -> None:
    server = run_app(body_app(b"ok"), send_timeout=3.0)
    with server.connect() as client:
        assert client.exchange("GET", "/").body == b"ok"
        sock = next(iter(server.server.connections)).socket
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 13_000


@pytest.fixture
def few_files() -> Iterator[int]:
    """A low soft limit for the processes started meanwhile; yields the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="needs /proc")
def test_raises_open_file_limit(command: Start, few_files: int) -> None:
    """A stream needs two descriptors, a reader of a log three; shells allow 1024."""
    server = command("--max-streams", "100")
    limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    wanted = 3 * 1000 + 256
    assert int(line.split()[3]) == (wanted if few_files < 0 else min(wanted, few_files))
    server.signal(signal.SIGTERM)
    assert server.finish() == 0


def test_warns_when_open_file_limit_is_too_low(bare_environment: dict[str, str]) -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))\n"
        "from choreo_wsgi.serve.sockets import raise_open_files\n"
        "raise_open_files(2256)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=bare_environment,
        capture_output=True,
        text=True,
        timeout=harness.DEADLINE,
        check=True,
    )
    assert "only 300 open files allowed, 2256 may be needed" in done.stderr


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
def test_accepts_waiting_connections_when_descriptors_are_free(command: Start) -> None:
    """Meanwhile a warning is logged."""
    server = command("--default-model", "echo")
    pid, number = server.process.pid, resource.RLIMIT_NOFILE
    soft, hard = resource.prlimit(pid, number)
    resource.prlimit(pid, number, (3, hard))
    with server.connect() as client:
        client.request("GET", "/healthz")
        next(line for line in server.process.stderr if "no connection can be accepted" in line)
        resource.prlimit(pid, number, (soft, hard))
        assert client.read_answer().status == 200


def test_listener_pauses_without_descriptors() -> None:
    """Otherwise the loop would retry at once and use a whole core."""
    carrier = SimpleNamespace(add=lambda load: None)
    server = SimpleNamespace(
        carrier=carrier, settings=Settings(), full=False, retired=False, over_share=None
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        listener = Listener(server, sock)
        with socket.create_connection(sock.getsockname()):
            assert listener.fileno() == sock.fileno()
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                listener.step(0)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert listener.fileno() is None


def test_max_streams_bounds_threads_and_connections(run_app: Callable[..., Running]) -> None:
    for streams, connections in ((3, 1000), (600, 1200)):
        server = run_app(body_app(b"ok"), max_streams=streams).server
        assert server.carrier.workers.most == streams + RESERVE
        assert server._max_connections == connections


def test_closed_server_leaves_no_thread(run_app: Callable[..., Running]) -> None:
    before = set(threading.enumerate())
    server = run_app(body_app(b"ok"))
    with server.connect() as client:
        assert client.exchange("GET", "/").body == b"ok"
    server.close()
    harness.wait_until(lambda: set(threading.enumerate()) <= before, "all threads have ended")


def test_accepts_waiting_client_when_another_leaves(
    run_app: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    running = run_app(body_app(b"ok"))
    running.server._max_connections = 2
    with running.connect() as first, running.connect() as second:
        for client in (first, second):
            assert client.exchange("GET", "/").body == b"ok"
        assert "there are 2 connections: no more are accepted" in caplog.text
        with running.connect() as third:
            third.request("GET", "/")
            assert first.exchange("GET", "/").body == b"ok"
            assert len(running.server.connections) == 2
            first.close()
            assert third.read_answer().body == b"ok"
    caplog.clear()
