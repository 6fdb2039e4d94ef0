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

import harness
import pytest

#: Arguments: the backoff, the seconds that a process needs to start, and those that it needs to
#: end after SIGTERM.
PROGRAM = """
import os, signal, sys, threading, time
from choreo_wsgi.serve import processes

processes.FIRST_BACKOFF, starts, drains = map(float, sys.argv[1:])

def end(*_):
    threading.Timer(drains, os._exit, (0,)).start()

def serve(context):
    signal.signal(signal.SIGTERM, end)
    time.sleep(starts)
    context.announce("ready", lambda: os._exit(0), lambda: os._exit(0))
    while True:
        signal.pause()

sys.exit(processes.Supervisor(2, [], serve, 30.0).run())
"""


class Supervised:
    """A running supervisor of two processes; *seen* has all that were seen."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.seen: set[int] = set()

    def children(self) -> set[int]:
        pid = self.process.pid
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            self.seen |= (found := set(map(int, text.split())))
            return found
        return set()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


Start = Callable[..., Supervised]


@pytest.fixture
def start() -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start(*, backoff: float = 30.0, starts: float = 0.0, drains: float = 0.0) -> Supervised:
            words = [sys.executable, "-c", PROGRAM, *map(str, (backoff, starts, drains))]
            process = stack.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            return Supervised(process)

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
        time.sleep(0.01)
    harness.wait_until(lambda: server.children() and len(server.seen) == 6, "both, and both again")
    newest = set(sorted(server.seen)[-2:])
    harness.wait_until(lambda: server.children() == newest, "the newest remain")
    time.sleep(0.4)
    assert server.children() == newest and len(server.seen) == 6
    finish(server)


def test_sighup_starts_process_awaiting_restart_only_once(start: Start) -> None:
    server = start(backoff=0.6)
    old = server.children()
    os.kill(min(old), signal.SIGKILL)
    harness.wait_until(lambda: len(server.children()) == 1, "one ends")
    server.signal(signal.SIGHUP)
    harness.wait_until(
        lambda: len(server.children()) == 2 and not old & server.children(), "both are new"
    )
    time.sleep(0.8)
    assert len(server.children()) == 2 and len(server.seen) == 4
    finish(server)


def test_shutdown_starts_no_process_again(start: Start) -> None:
    server = start(backoff=0.2, drains=0.8)
    os.kill(min(server.children()), signal.SIGKILL)
    harness.wait_until(lambda: len(server.children()) == 1, "one ends")
    server.signal(signal.SIGTERM)
    server.signal(signal.SIGHUP)
    assert watch_to_end(server) == 0 and len(server.seen) == 2


def test_shutdown_stops_replacement(start: Start) -> None:
    server = start(starts=0.3, drains=0.8)
    server.children()
    server.signal(signal.SIGHUP)
    harness.wait_until(lambda: server.children() and len(server.seen) == 3, "one is replaced")
    time.sleep(0.1)  # by then it handles the signal
    server.signal(signal.SIGTERM)  # received by the new one before it serves
    assert watch_to_end(server) == 0 and len(server.seen) == 3


def test_process_that_dies_during_replacement_is_not_restarted(start: Start) -> None:
    server = start(backoff=0.1, starts=0.4)
    old = server.children()
    server.signal(signal.SIGHUP)
    harness.wait_until(lambda: server.children() and len(server.seen) == 3, "a new one starts")
    os.kill(min(old), signal.SIGKILL)
    harness.wait_until(lambda: not old & server.children(), "both are replaced")
    assert len(server.seen) == 4
    finish(server)
