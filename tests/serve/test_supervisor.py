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
    """A running supervisor of two processes; *seen* are all that it was seen to have."""

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
    """Return the exit status; all processes until then are in ``seen``."""
    while server.process.poll() is None:
        server.children()
        time.sleep(0.02)
    return server.process.returncode


def finish(server: Supervised) -> None:
    server.signal(signal.SIGTERM)
    assert server.process.wait(harness.DEADLINE) == 0


def test_a_second_hangup_replaces_those_that_are_new_already(start: Start) -> None:
    """The first of them have read the configuration before it was changed again."""
    server = start(starts=0.3)
    server.children()
    server.signal(signal.SIGHUP)
    harness.wait_until(lambda: server.children() and len(server.seen) == 3, "one is replaced")
    for _ in range(3):  # together they are one
        server.signal(signal.SIGHUP)
        time.sleep(0.01)
    harness.wait_until(lambda: server.children() and len(server.seen) == 6, "both, and both again")
    newest = set(sorted(server.seen)[-2:])
    harness.wait_until(lambda: server.children() == newest, "the newest remain")
    time.sleep(0.4)
    assert server.children() == newest and len(server.seen) == 6
    finish(server)


def test_a_hangup_starts_one_that_waits_for_its_restart_once(start: Start) -> None:
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


def test_none_is_started_again_while_all_end(start: Start) -> None:
    server = start(backoff=0.2, drains=0.8)
    os.kill(min(server.children()), signal.SIGKILL)
    harness.wait_until(lambda: len(server.children()) == 1, "one ends")
    server.signal(signal.SIGTERM)
    server.signal(signal.SIGHUP)
    assert watch_to_end(server) == 0 and len(server.seen) == 2


def test_no_replacement_goes_on_while_all_end(start: Start) -> None:
    server = start(starts=0.3, drains=0.8)
    server.children()
    server.signal(signal.SIGHUP)
    harness.wait_until(lambda: server.children() and len(server.seen) == 3, "one is replaced")
    time.sleep(0.1)  # it handles the signal by then
    server.signal(signal.SIGTERM)  # which the new one gets before it serves
    assert watch_to_end(server) == 0 and len(server.seen) == 3


def test_one_that_dies_while_it_is_replaced_is_not_started_again(start: Start) -> None:
    server = start(backoff=0.1, starts=0.4)
    old = server.children()
    server.signal(signal.SIGHUP)
    harness.wait_until(lambda: server.children() and len(server.seen) == 3, "a new one starts")
    os.kill(min(old), signal.SIGKILL)
    harness.wait_until(lambda: not old & server.children(), "both are replaced")
    assert len(server.seen) == 4
    finish(server)
