"""Several processes on one socket, with the real command."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import pytest

from choreo_wsgi.errors import ConfigurationError
from choreo_wsgi.serve.processes import (
    ConnectionCounts,
    ProcessContext,
    Supervisor,
    process_count,
)
from choreo_wsgi.settings import Configuration, Settings

Start = Callable[..., Any]

SLOW = "[provider echo]\ntype = echo\nmodels = echo\ndelay_ms = 50\n"


def children(server: Any) -> list[int]:
    """Return the ids of the living processes that *server* has started."""
    pid = server.process.pid
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _port(address: str) -> int:
    return int(address.partition(":")[2], 16)


def holder(client: harness.Client, processes: list[int]) -> int:
    """Return the one of *processes* that has the other end of *client*'s connection."""
    ends = client.socket.getpeername()[1], client.socket.getsockname()[1]
    rows = map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
    found = {(_port(row[1]), _port(row[2])): f"socket:[{row[9]}]" for row in rows if row[3] == "01"}
    name = found[ends]
    for process in processes:
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()) == name:
                    return process
    raise AssertionError(f"no process has {name}")


def begin(client: harness.Client, words: int, **headers: str) -> harness.Head:
    text = " ".join(f"w{number}" for number in range(words))
    body = {"model": "echo", "messages": [{"role": "user", "content": text}], "stream": True}
    client.request("POST", "/v1/chat/completions", body, headers)
    head = client.read_head()
    assert head.status == 200
    client.read_frame()
    return head


def last_frame(client: harness.Client) -> bytes:
    frame = last = b""
    while frame := client.read_frame():
        last = frame
    return last


def test_killed_process_is_replaced_while_others_keep_serving(command: Start) -> None:
    server = command("--processes", "2", "--max-streams", "40", ini=SLOW)
    harness.wait_until(lambda: len(children(server)) == 2, "both run")
    killed, other = children(server)
    clients: list[tuple[harness.Client, int]] = []
    while {process for _, process in clients} != {killed, other}:
        clients.append((server.connect(), 0))
        begin(clients[-1][0], 1000)
        clients[-1] = clients[-1][0], holder(clients[-1][0], [killed, other])
    os.kill(killed, signal.SIGKILL)
    for client, process in clients:
        if process == other:
            assert client.read_frame().startswith(b"data: ")
        else:
            end = b""
            with contextlib.suppress(OSError, AssertionError, pytest.fail.Exception):
                end = last_frame(client)
            assert end != b"data: [DONE]\n\n"
        client.close()
    harness.wait_until(lambda: len(set(children(server)) - {killed}) == 2, "it is restarted")
    with server.connect() as client:
        assert client.exchange("GET", "/healthz").status == 200
    server.signal(signal.SIGTERM)
    assert server.finish() == 0


def test_sighup_replaces_processes_without_refusing_clients(command: Start) -> None:
    server = command("--processes", "2", ini=SLOW)
    harness.wait_until(lambda: len(children(server)) == 2, "both run")
    old = set(children(server))
    with server.connect() as running:
        begin(running, 20)
        server.signal(signal.SIGHUP)

        def replaced() -> bool:
            with server.connect() as client:
                assert client.exchange("GET", "/healthz").status == 200
            return len(set(children(server)) - old) == 2

        harness.wait_until(replaced, "both are new")
        assert last_frame(running) == b"data: [DONE]\n\n"
    harness.wait_until(lambda: not old & set(children(server)), "the old ones have ended")
    server.signal(signal.SIGTERM)
    _, log = server.process.communicate(timeout=harness.DEADLINE)
    assert server.process.returncode == 0
    assert "ended with status" not in log, "they ended on request"


def test_stream_can_be_resumed_through_another_process(command: Start, tmp_path: Path) -> None:
    """They share a replay log, though ``replay`` is ``memory:``."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    server = command("--processes", "2", ini=SLOW, TMPDIR=str(folder))
    assert list(folder.iterdir())
    with server.connect() as client:
        head = begin(client, 3, **{"Choreo-Resumable": "1"})
        last_frame(client)
    for _ in range(8):  # some of them by the other process
        with server.connect() as client:
            answer = client.exchange("GET", f"/v1/streams/{head.headers['choreo-stream-id']}")
            assert (answer.status, answer.body.count(b"[DONE]")) == (200, 1)
    server.signal(signal.SIGTERM)
    assert server.finish() == 0
    assert not list(folder.iterdir())


def test_processes_end_with_their_supervisor(command: Start) -> None:
    server = command("--processes", "2")
    harness.wait_until(lambda: len(children(server)) == 2, "both run")
    alone = children(server)
    for pid in alone:  # only the supervisor handles SIGHUP, which a terminal sends to all
        (ignored,) = re.findall(r"SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
        assert int(ignored, 16) >> (signal.SIGHUP - 1) & 1
    server.signal(signal.SIGKILL)
    assert server.finish() == -signal.SIGKILL
    harness.wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in alone), "both end")


STOPPED = """
import os, signal, sys
from choreo_wsgi.serve.processes import Supervisor

def serve(context):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    context.announce("ready", lambda: None, lambda: None)
    os.kill(os.getpid(), signal.SIGSTOP)
    return 0

sys.exit(Supervisor(2, [], serve, 0.2).run())
"""


def test_kills_process_that_does_not_end() -> None:
    words = [sys.executable, "-c", STOPPED]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, start_new_session=True) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == b"ready\n"
            server.send_signal(signal.SIGTERM)
            _, errors = server.communicate(timeout=harness.DEADLINE)
        finally:
            with contextlib.suppress(ProcessLookupError):  # all have ended
                os.killpg(server.pid, signal.SIGKILL)
    assert server.returncode == 0
    assert errors.count(b"does not end and is killed") == 2


def test_processes_have_drain_seconds_and_8_s_to_end(
    run_here: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(self: Any, count: int, sockets: Any, serve: Any, patience: float) -> None:
        found.append((count, patience))
        for one in sockets:
            one.close()

    found: list[tuple[int, float]] = []
    monkeypatch.setattr(Supervisor, "__init__", create)
    monkeypatch.setattr(Supervisor, "run", lambda self: 0)
    arguments = ("--listen", "127.0.0.1:0", "--processes", "2", "--drain-seconds", "33")
    assert run_here("serve", *arguments).returncode == 0
    assert found == [(2, 41.0)]


def test_invalid_configuration_ends_supervisor_with_status_2(
    bare_environment: dict[str, str], tmp_path: Path
) -> None:
    config = tmp_path / "wrong.ini"
    config.write_text("[provider x]\ntype = no-such-type\n")
    words = [sys.executable, "-m", "choreo_wsgi", "serve", "--listen", "127.0.0.1:0"]
    done = subprocess.run(
        [*words, "--processes", "2", "--config", str(config)],
        env=bare_environment,
        capture_output=True,
        text=True,
        timeout=2 * harness.DEADLINE,
        check=False,
    )
    assert done.returncode == 2
    assert "no-such-type" in done.stderr


def test_killed_processes_are_logged_and_restarted(command: Start) -> None:
    """Even if all of them end at once."""
    server = command("--processes", "2")
    harness.wait_until(lambda: len(children(server)) == 2, "both run")
    killed = children(server)
    for process in killed:
        os.kill(process, signal.SIGKILL)
    harness.wait_until(lambda: len({*children(server)} - {*killed}) == 2, "they are restarted")
    server.signal(signal.SIGTERM)
    _, log = server.process.communicate(timeout=harness.DEADLINE)
    for process in killed:
        assert f"process {process} ended with status -9\n" in log


def test_failed_sighup_keeps_old_processes(command: Start, tmp_path: Path) -> None:
    """The next SIGHUP, with a valid configuration, replaces them."""
    server = command("--processes", "2", ini=SLOW)
    config = tmp_path / "choreo-0.ini"
    harness.wait_until(lambda: len(children(server)) == 2, "both run")
    old = set(children(server))
    config.write_text("[provider x]\ntype = no-such-type\n")
    server.signal(signal.SIGHUP)
    assert server.process.stderr is not None
    for line in server.process.stderr:
        if "a new process does not start (status 2); the old ones stay" in line:
            break
    assert set(children(server)) == old
    config.write_text(SLOW)
    server.signal(signal.SIGHUP)
    harness.wait_until(
        lambda: len(children(server)) == 2 and not old & set(children(server)), "both are new"
    )
    server.signal(signal.SIGTERM)
    assert server.finish() == 0


def test_failed_restart_keeps_other_processes(command: Start, tmp_path: Path) -> None:
    """The configuration has become invalid; once it is valid, the process is restarted."""
    server = command("--processes", "2", ini=SLOW)
    config = tmp_path / "choreo-0.ini"
    harness.wait_until(lambda: len(children(server)) == 2, "both run")
    killed, other = children(server)
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    used = len(list(descriptors.iterdir()))
    config.write_text("[provider x]\ntype = no-such-type\n")
    os.kill(killed, signal.SIGKILL)
    assert server.process.stderr is not None
    for line in server.process.stderr:
        if "ended with status 2" in line:
            break
    with server.connect() as client:
        assert client.exchange("GET", "/healthz").status == 200
    config.write_text(SLOW)
    harness.wait_until(
        lambda: len(children(server)) == 2 and killed not in children(server), "both run"
    )
    assert other in children(server)
    harness.wait_until(lambda: len(list(descriptors.iterdir())) == used, "the pipes are closed")
    server.signal(signal.SIGTERM)
    assert server.finish() == 0


def test_processes_share_unix_socket(command: Start, tmp_path: Path) -> None:
    """A stale socket at its path is replaced; its mode is 0600."""
    path = tmp_path / "choreo.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    server = command("--processes", "2", "--unix-socket", str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for _ in range(4):
        with harness.Client(str(path)) as client:
            assert client.exchange("GET", "/healthz").status == 200
    server.signal(signal.SIGTERM)
    assert server.finish() == 0
    assert not path.exists()


def test_address_in_use_ends_supervisor_with_status_2(run: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("serve", "--processes", "2", "--listen", address)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"listen: {address}: Address already in use" in done.stderr


def test_processes_share_max_streams_and_replay_log() -> None:
    counts = ConnectionCounts(3)

    def shared(index: int, **settings: Any) -> Settings:
        context = ProcessContext(index, counts, [], -1, -1, Path("/shared"))
        return context.configure(Configuration(Settings(**settings), {})).settings

    assert [shared(index, max_streams=8).max_streams for index in range(3)] == [3, 3, 2]
    assert [shared(index, max_streams=1).max_streams for index in range(3)] == [1, 1, 1]
    assert shared(0, replay="memory:").replay == "sqlite:/shared/replay.sqlite"
    assert shared(0, replay="redis://h/0").replay == "redis://h/0"


def test_process_with_most_connections_stops_accepting() -> None:
    counts = ConnectionCounts(2)
    assert not counts.report(0, 100)  # the other has not started yet
    assert not counts.report(1, 0)
    assert not counts.report(0, 8)  # a difference that short requests cause is tolerated
    assert counts.report(0, 10)
    assert not counts.report(1, 9)
    assert not counts.report(0, 10)
    assert counts.report(0, 20)
    counts.remove(1)
    assert not counts.report(0, 20)


@pytest.mark.parametrize("text", ["0", "many", "257"])
def test_processes_must_be_1_to_256_or_auto(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        process_count(Settings(processes=text))
    assert caught.value.message.startswith("processes: ")


def test_auto_means_one_process_per_core() -> None:
    assert process_count(Settings(processes="auto")) == len(os.sched_getaffinity(0))
    assert process_count(Settings()) == 1
    assert process_count(Settings(processes="256")) == 256
