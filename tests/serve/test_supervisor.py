"""The supervisor of several processes, around processes that serve nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import harness
import pytest

from choreo_wsgi.serve import processes

#: Arguments: the backoff, the seconds that a process needs to start, and those that it needs to
#: end after the first SIGTERM.  A process prints a line before it serves, and at that signal.
PROGRAM = r"""
import os, signal, sys, threading, time
from choreo_wsgi.serve import processes

processes.FIRST_BACKOFF, starts, drains = map(float, sys.argv[1:])

def end(*_):
    os.write(1, b"end\n")
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    threading.Timer(drains, os._exit, (0,)).start()

def serve(context):
    signal.signal(signal.SIGTERM, end)
    os.write(1, b"start %d\n" % context.index)
    time.sleep(starts)
    context.announce("ready", lambda: os._exit(0), lambda: os._exit(0))
    while True:
        signal.pause()

sys.exit(processes.Supervisor(2, [], serve, 30.0).run())
"""


class Supervised:
    """A running supervisor of two processes; *seen* has all that were seen, as they were started.

    Their numbers do not tell that order: after the highest one the kernel begins again.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.seen: list[int] = []

    def children(self) -> set[int]:
        pid = self.process.pid
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            found = list(map(int, text.split()))  # in the order of their start
            self.seen += [one for one in found if one not in self.seen]
            return set(found)
        return set()

    def signal(self, number: int) -> None:
        """Send the signal *number*, and wait until it is handled."""
        self.process.send_signal(number)
        harness.wait_until(self.waits, "the signal is handled")

    def waits(self) -> bool:
        """Whether the supervisor has nothing to do, or has ended."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] in "SZ"

    def line(self) -> str:
        """Return the next line that the supervisor or one of its processes prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode()


Start = Callable[..., Supervised]


@pytest.fixture
def start() -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start(*, backoff: float = 30.0, starts: float = 0.0, drains: float = 0.0) -> Supervised:
            words = [sys.executable, "-c", PROGRAM, *map(str, (backoff, starts, drains))]
            process = stack.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            server = Supervised(process)
            assert [server.line() for _ in range(3)][2] == "ready\n"
            return server

        yield start


def watch_to_end(server: Supervised) -> int:
    """Wait for the end, noting all processes in ``seen``; return the exit status."""
    while server.process.poll() is None:
        server.children()
        time.sleep(0.02)
    return server.process.returncode


def finish(server: Supervised) -> None:
    server.signal(signal.SIGTERM)
    assert server.process.wait(harness.DEADLINE) == 0


def test_second_sighup_replaces_new_processes_too(start: Start) -> None:
    """They have read the configuration before its last change."""
    server = start(starts=0.3)
    server.children()
    server.signal(signal.SIGHUP)
    harness.wait_until(lambda: server.children() and len(server.seen) == 3, "one is replaced")
    for _ in range(3):  # merged into one
        server.signal(signal.SIGHUP)
    harness.wait_until(lambda: server.children() and len(server.seen) == 6, "both, and both again")
    newest = set(server.seen[-2:])
    # A third replacement would start in the round that ends the second.
    harness.wait_until(lambda: server.children() == newest, "the newest remain")
    harness.wait_until(lambda: all(server.waits() for _ in range(100)), "nothing is to do")
    assert len(server.seen) == 6
    finish(server)


def test_sighup_starts_process_awaiting_restart_only_once(start: Start) -> None:
    server = start(backoff=0.6)
    old = server.children()
    os.kill(server.seen[0], signal.SIGKILL)
    harness.wait_until(lambda: len(server.children()) == 1, "one ends")
    server.signal(signal.SIGHUP)
    harness.wait_until(
        lambda: len(server.children()) == 2 and not old & server.children(), "both are new"
    )
    # The times of restarts pass in order, so this one passes after that of the first.
    os.kill(server.seen[-1], signal.SIGKILL)
    assert [server.line() for _ in range(3)] == ["start 0\n", "start 1\n", "start 1\n"]
    finish(server)


def test_shutdown_starts_no_process_again(start: Start) -> None:
    server = start(backoff=0.2, drains=0.8)
    server.children()
    os.kill(server.seen[0], signal.SIGKILL)
    harness.wait_until(lambda: len(server.children()) == 1, "one ends")
    server.signal(signal.SIGTERM)
    server.signal(signal.SIGHUP)
    assert watch_to_end(server) == 0 and len(server.seen) == 2


def test_second_signal_is_forwarded(start: Start) -> None:
    server = start(drains=1000.0)
    server.signal(signal.SIGTERM)
    assert [server.line(), server.line()] == ["end\n"] * 2
    finish(server)


def test_shutdown_stops_replacement(start: Start) -> None:
    server = start(starts=0.3, drains=0.8)
    server.children()
    server.signal(signal.SIGHUP)
    assert server.line() == "start 0\n"
    server.children()
    server.signal(signal.SIGTERM)  # received by the new one before it serves
    assert watch_to_end(server) == 0 and len(server.seen) == 3


def test_process_that_dies_during_replacement_is_not_restarted(start: Start) -> None:
    server = start(backoff=0.1, starts=0.4)
    old = server.children()
    server.signal(signal.SIGHUP)
    harness.wait_until(lambda: server.children() and len(server.seen) == 3, "a new one starts")
    os.kill(server.seen[0], signal.SIGKILL)
    harness.wait_until(lambda: not old & server.children(), "both are replaced")
    assert len(server.seen) == 4
    finish(server)


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[processes.Supervisor]:
    """A supervisor in this process, at the time 100; it has started nothing yet."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=lambda: 100.0))
    one = processes.Supervisor(2, [], lambda context: 0, 1.0)
    yield one
    for descriptor in (one._alive, one._parent):
        os.close(descriptor)
    one._waker.close()
    one._wake_reader.close()


def test_second_signal_does_not_postpone_the_kill(supervisor: processes.Supervisor) -> None:
    supervisor._stop()
    processes.time.monotonic = lambda: 100.5  # type: ignore[assignment]
    supervisor._stop()
    assert supervisor._deadline == 101.0


def test_restarts_are_delayed_longer_up_to_10_s(supervisor: processes.Supervisor) -> None:
    """Unless the process had served for half a minute; meanwhile it has no connections."""
    supervisor._announced = True
    supervisor._counts.report(1, 0)

    def delay(lived: float) -> float:
        supervisor._on_end(processes._Process(0, 1, 100.0 - lived, -1, serves=True), 1)
        return supervisor._restarts[1] - 100.0

    assert [delay(1) for _ in range(8)] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10])
    assert [delay(31), delay(1)] == pytest.approx([0.2, 0.4])
    assert not supervisor._counts.report(0, 100)


SIGNALLED = """
import os, signal, sys
from choreo_wsgi.serve.processes import Supervisor

def fork(fork=os.fork):
    if not (pid := fork()):
        os.kill(os.getpid(), signal.SIGTERM)
    return pid

os.fork = fork
Supervisor(1, [], lambda context: 0, 30.0).run()
"""


def test_signal_right_after_fork_ends_the_process() -> None:
    """It is not handled as the supervisor would."""
    words = [sys.executable, "-c", SIGNALLED]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        assert server.stderr.readline().endswith(" ended with status -15\n")
        server.terminate()


LATE = """
import os, signal, sys, time
from choreo_wsgi.serve.processes import Supervisor

def serve(context):
    if context.index:
        time.sleep(0.2)
        os.write(1, b"the last serves\\n")
    context.announce("ready", lambda: None, lambda: None)
    if not context.index:
        os.write(1, b"%d connections\\n" % context.counts._numbers[0])
    signal.pause()

Supervisor(2, [], serve, 30.0).run()
"""


def test_announces_when_all_processes_serve() -> None:
    """Each one counts from then on in their share of the connections."""
    words = [sys.executable, "-c", LATE]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        lines = [server.stdout.readline() for _ in range(3)]
        server.terminate()
    lines.remove("0 connections\n")
    assert lines == ["the last serves\n", "ready\n"]
