"""Socket activation: the server uses the listening socket that systemd passes to it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import pytest

# systemd passes sockets as descriptors 3 and up, and the id of the process in LISTEN_PID.
STARTER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=sys.argv[2])
os.execv(sys.executable, [sys.executable, "-m", "choreo_wsgi", "serve", *sys.argv[3:]])
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as opened:
        yield opened


def start(
    listener: socket.socket, home: Path, *arguments: str, count: str = "1"
) -> subprocess.Popen[str]:
    number = listener.fileno()
    return subprocess.Popen(
        [sys.executable, "-c", STARTER, str(number), count, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        pass_fds=[number],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_serves_client_that_connected_before_start(listener: socket.socket, tmp_path: Path) -> None:
    """It waits in systemd's socket; SIGTERM still drains, with exit status 0."""
    with harness.Client(listener.getsockname(), 30) as client:
        body = {"model": "echo", "messages": [{"role": "user", "content": "a b"}], "stream": True}
        client.request("POST", "/v1/chat/completions", body)
        process = start(listener, tmp_path)
        assert client.read_head().status == 200
        assert client.read_body().endswith(b"data: [DONE]\n\n")
    if sys.platform == "linux":  # no process that it starts keeps the socket open
        flags = Path(f"/proc/{process.pid}/fdinfo/3").read_text().partition("flags:")[2].split()[0]
        assert int(flags, 8) & os.O_CLOEXEC
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert f"http://127.0.0.1:{listener.getsockname()[1]}" in output


@pytest.mark.parametrize("count", ["x", "-1", "999"])
def test_rejects_invalid_listen_fds(listener: socket.socket, tmp_path: Path, count: str) -> None:
    process = start(listener, tmp_path, count=count)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "LISTEN_FDS" in output and "Traceback" not in output


@pytest.mark.parametrize(
    ("kind", "host", "message"),
    [
        (socket.SOCK_DGRAM, "127.0.0.1", "LISTEN_FDS: not a stream socket"),
        (socket.SOCK_STREAM, "0.0.0.0", "--allow-anonymous"),
    ],
)
def test_rejects_unsuitable_socket(tmp_path: Path, kind: int, host: str, message: str) -> None:
    with socket.socket(socket.AF_INET, kind) as opened:
        opened.bind((host, 0))
        process = start(opened, tmp_path)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert message in output


def test_ignores_sockets_for_another_process(command: Callable[..., Any]) -> None:
    server = command(LISTEN_PID="1", LISTEN_FDS="1")
    with server.connect() as client:
        assert client.exchange("GET", "/healthz").status == 200


def test_keeps_path_of_inherited_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))
        opened.listen()
        process = start(opened, tmp_path, "--unix-socket", str(path))
        with harness.Client(str(path), 30) as client:
            assert client.exchange("GET", "/healthz").status == 200
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0 and path.exists()
