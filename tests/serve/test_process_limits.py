"""Resources of the process: descriptors, threads, connections, socket options."""

from __future__ import annotations

import contextlib
import errno
import gc
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import harness
import pytest
from plain_apps import PlainApp, Running, body_app

from choreo_wsgi.errors import ConfigurationError
from choreo_wsgi.serve.listener import Listener
from choreo_wsgi.serve.server import RESERVE, SWITCH, Server
from choreo_wsgi.serve.sockets import raise_open_files
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
def test_tunes_thread_switches_and_garbage_collection(run_app: Callable[..., Running]) -> None:
    gc.unfreeze()
    server = run_app(body_app(b"ok"))
    with server.connect() as client:
        assert client.exchange("GET", "/").body == b"ok"
    assert sys.getswitchinterval() == pytest.approx(SWITCH)
    assert gc.get_threshold()[0] == 50_000 and gc.get_freeze_count()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs Linux")
def test_sets_tcp_options_for_clients(run_app: Callable[..., Running]) -> None:
    server = run_app(body_app(b"ok"), send_timeout=3.0)
    with server.connect() as client:
        assert client.exchange("GET", "/").body == b"ok"
        sock = next(iter(server.server.connections)).socket
        options = (socket.TCP_USER_TIMEOUT, socket.TCP_NODELAY, socket.TCP_NOTSENT_LOWAT)
        found = [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options]
    assert found == [13_000, 1, 512 * 1024]


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


def test_does_not_lower_open_file_limit() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        raise_open_files(before[0] - 1)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    ("limits", "changed"),
    [
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), []),
        ((300, resource.RLIM_INFINITY), [(2256, resource.RLIM_INFINITY)]),
    ],
)
def test_unlimited_open_files_are_more_than_needed(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], changed: list[tuple[int, int]]
) -> None:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda number: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda number, pair: found.append(pair))
    raise_open_files(2256)
    assert found == changed


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
            assert listener.due <= time.monotonic() + 0.5


def listening(sock: Any, **more: Any) -> tuple[Listener, list[Any]]:
    """Return a listener on *sock*, and the connections that it accepts."""
    accepted: list[Any] = []
    carrier = SimpleNamespace(add=lambda load: None, schedule=accepted.append)
    values = {"full": False, "retired": False, "over_share": None, "connections": set(), **more}
    server = SimpleNamespace(carrier=carrier, settings=Settings(), **values)
    return Listener(server, sock), accepted


@pytest.mark.parametrize(
    ("number", "pauses"),
    [
        *((number, True) for number in (errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)),
        (errno.ECONNABORTED, False),  # a client that has left already
    ],
)
def test_listener_pauses_when_system_lacks_resources(number: int, pauses: bool) -> None:
    def fail() -> None:
        raise OSError(number, "no")

    with socket.create_server(("127.0.0.1", 0)) as sock:
        listener, _ = listening(sock)
        listener.socket = SimpleNamespace(_accept=fail, fileno=sock.fileno)  # type: ignore[assignment]
        listener.step(0)
        assert (listener.fileno() is None) is pauses


def test_listener_accepts_at_most_four_connections_in_one_step() -> None:
    """Running streams wait for no more than those."""
    with socket.create_server(("127.0.0.1", 0)) as sock, contextlib.ExitStack() as stack:
        listener, accepted = listening(sock)
        for _ in range(12):
            stack.enter_context(socket.create_connection(sock.getsockname()))
        counts = []
        for _ in range(5):
            listener.step(0)
            counts.append(len(accepted))
        for channel in accepted:
            channel.socket.close()
    assert counts == [1, 3, 7, 11, 12]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_url_of_listener_has_ipv6_address_in_brackets() -> None:
    server = SimpleNamespace(carrier=SimpleNamespace(add=lambda load: None), settings=Settings())
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as sock:
        assert Listener(server, sock).url == f"http://[::1]:{sock.getsockname()[1]}"


def test_listener_above_its_share_pauses_before_each_connection() -> None:
    """It accepts one after the pause in any case: the other processes may be stuck."""
    carrier = SimpleNamespace(add=lambda load: None, schedule=lambda load: None)
    connections: set[Any] = set()
    server: Any = SimpleNamespace(
        carrier=carrier, settings=Settings(), full=False, retired=False, connections=connections
    )
    server.over_share = lambda count: True
    with socket.create_server(("127.0.0.1", 0)) as sock:
        listener = Listener(server, sock)
        with socket.create_connection(sock.getsockname()):
            listener.step(0)
            assert listener.fileno() is None and not connections
            harness.wait_until(lambda: listener.due <= time.monotonic(), "the pause has passed")
            listener.step(0)
            (channel,) = connections
            channel.socket.close()


def test_too_few_threads_fail_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        app: Any = PlainApp(body_app(b"ok"), Settings())
        with pytest.raises(ConfigurationError, match=r"threads: the system allows .*ulimit -u"):
            Server(app, [sock])
        assert sock.fileno() == -1


def test_max_streams_bounds_threads_and_connections(run_app: Callable[..., Running]) -> None:
    for streams, connections in ((3, 1000), (600, 1200)):
        server = run_app(body_app(b"ok"), max_streams=streams).server
        assert server.carrier.workers.most == streams + RESERVE
        assert server.carrier.workers.started >= 4
        assert server._max_connections == connections


def test_closed_server_leaves_no_thread_and_no_connection(run_app: Callable[..., Running]) -> None:
    before = set(threading.enumerate())
    server = run_app(body_app(b"ok"))
    with server.connect() as client:
        assert client.exchange("GET", "/").body == b"ok"
        server.close()
        assert client.at_end()
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
