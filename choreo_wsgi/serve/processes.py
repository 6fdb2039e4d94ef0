"""Several processes on one socket: for more than one core.

The parent binds, starts the processes, and looks after them; it holds no application.  All
accept from the same socket: with one each (SO_REUSEPORT) a process that dies would take the
connections in its queue with it.  A process that has more than its share of the connections rests
for a moment between two accepts, so that the others are quicker.

A process that dies is started again.  SIGTERM and SIGINT drain all.  SIGHUP replaces them one
after the other: a new process reads the configuration, and only when it serves does the old one
drain, so no connection is refused.
"""

from __future__ import annotations

import contextlib
import logging
import math
import mmap
import os
import select
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from ..settings import Configuration, Settings

logger = logging.getLogger(__name__)

#: Seconds before a process that died is started again, at first and at most; it is as at first
#: again after a process has lived for STABLE seconds.
FIRST_BACKOFF, LONGEST_BACKOFF, STABLE = 0.2, 10.0, 30.0

#: Seconds beyond ``drain_seconds`` in which a process ends, by force if need be; one that has not
#: even then, because somebody has stopped it (SIGSTOP), is killed.
ENDING = 8.0

_ABSENT = 0xFFFFFFFF

# What the parent listens to, and its processes each in their own way.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

#: The status of a process whose configuration cannot be used: all are ended.
MISCONFIGURED = 2


def process_count(settings: Settings) -> int:
    """Return how many processes *settings* ask for; raises ConfigurationError."""
    text = settings.processes
    if text == "auto":
        with contextlib.suppress(AttributeError):  # not on macOS
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 256):
        raise ConfigurationError(f"processes: {text!r} is neither auto nor a number from 1 to 256")
    if int(text) > 1 and not hasattr(os, "fork"):
        raise ConfigurationError("processes: this system can run one only")
    return int(text)


class ConnectionCounts:
    """How many connections each of *count* processes has, in memory that they share.

    Each writes its own number only, so there is nothing to lock.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._numbers = memoryview(mmap.mmap(-1, 4 * count)).cast("I")
        for index in range(count):
            self.remove(index)

    def remove(self, index: int) -> None:
        """Count process *index* no more: it does not run."""
        self._numbers[index] = _ABSENT

    def report(self, index: int, connections: int) -> bool:
        """Set the number of process *index*; return whether it is clearly above the mean."""
        self._numbers[index] = connections
        there = [number for number in self._numbers if number != _ABSENT]
        return bool(connections > 1.02 * sum(there) / len(there) + 1)


@dataclass
class ProcessContext:
    """What a process is told: its *index* of *counts.count*, and the *sockets* to listen on."""

    index: int
    counts: ConnectionCounts
    sockets: list[socket.socket]
    #: Where the parent holds the other end: closed with it.
    parent: int
    #: Where to write what is printed once all serve.
    ready: int
    #: A folder of all processes, for as long as they run.
    folder: Path

    def report(self, connections: int) -> bool:
        """Report the number of *connections*; return whether it is clearly above the mean."""
        return self.counts.report(self.index, connections)

    def configure(self, configuration: Configuration) -> Configuration:
        """Return *configuration* for this process: its share of the streams, one log for all."""
        settings = configuration.settings
        streams = settings.max_streams // self.counts.count
        streams += self.index < settings.max_streams % self.counts.count
        changes: dict[str, Any] = {"max_streams": max(1, streams)}
        if settings.replay == "memory:":  # which another process cannot read
            changes["replay"] = f"sqlite:{self.folder / 'replay.sqlite'}"
        return replace(configuration, settings=replace(settings, **changes))

    def announce(self, text: str, drain: Callable[[], None], retire: Callable[[], None]) -> None:
        """Tell the parent that this process serves; *text* is printed once all do.

        *drain* is called when the parent has gone, *retire* when another process takes over.
        """

        def replaced(number: int, frame: object) -> None:
            threading.Thread(target=retire, name="retire", daemon=True).start()

        def watch() -> None:
            os.read(self.parent, 1)
            drain()

        signal.signal(signal.SIGUSR1, replaced)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the parent's
        threading.Thread(target=watch, name="parent", daemon=True).start()
        self.counts.report(self.index, 0)
        os.write(self.ready, text.encode())
        os.close(self.ready)


@dataclass
class _Process:
    pid: int
    index: int
    began: float
    ready: int  # readable once it serves, or has ended before
    serves: bool = False
    replaced: bool = False


class Supervisor:
    """Runs *serve* in *count* processes, each at a :class:`ProcessContext`, on *sockets*.

    *serve* returns the status of the process; it is called after a fork.  A process that has
    not ended *patience* seconds after it was asked to is killed.
    """

    def __init__(
        self,
        count: int,
        sockets: list[socket.socket],
        serve: Callable[[ProcessContext], int],
        patience: float,
    ) -> None:
        self._serve = serve
        self._patience = patience
        self._deadline = math.inf  # when those are killed that have not ended
        self._sockets = sockets
        self._counts = ConnectionCounts(count)
        self._processes: dict[int, _Process] = {}
        self._restarts: dict[int, float] = {}  # when to start which index again
        self._backoff = [FIRST_BACKOFF] * count
        self._replacing: list[int] = []  # indices, the one that is being replaced first
        self._signals: list[int] = []
        self._stopping = False
        self._told = False
        self._status = 0
        self._folder = Path(tempfile.mkdtemp(prefix="choreo-"))
        metrics = self._folder / "metrics"
        metrics.mkdir()
        # Where prometheus_client, if it is used, has each process leave its figures.
        self._metrics = Path(os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(metrics)))
        # Nobody writes to it: it is closed when the parent ends, however it ends.
        self._alive, self._parent = os.pipe()
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return the status of the whole."""
        for number in _SIGNALS:
            signal.signal(number, lambda number, frame: self._signals.append(number))
        signal.set_wakeup_fd(self._outside.fileno(), warn_on_full_buffer=False)
        try:
            for index in range(self._counts.count):
                self._start(index)
            while self._processes or (self._restarts and not self._stopping):
                self._round()
        finally:
            signal.set_wakeup_fd(-1)
            shutil.rmtree(self._folder, ignore_errors=True)
        return self._status

    def _round(self) -> None:
        waiting: list[Any] = [one.ready for one in self._processes.values() if one.ready >= 0]
        due = min([*self._restarts.values(), self._deadline, time.monotonic() + 60])
        patience = max(0.0, due - time.monotonic())
        ready, _, _ = select.select([self._inside, *waiting], [], [], patience)
        with contextlib.suppress(BlockingIOError):
            self._inside.recv(4096)
        while self._signals:
            self._on_signal(self._signals.pop(0))
        for process in list(self._processes.values()):
            if process.ready in ready:
                self._on_ready(process)
        self._reap()
        now = time.monotonic()
        for pid in self._processes if now >= self._deadline else ():
            logger.error("process %d does not end: it is killed", pid)
            os.kill(pid, signal.SIGKILL)
            self._deadline = math.inf
        for index in [index for index, when in self._restarts.items() if when <= now]:
            del self._restarts[index]
            if not self._stopping:
                self._start(index)

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop()
        elif number == signal.SIGHUP and not (self._stopping or self._replacing):
            self._replacing = list(range(self._counts.count))
            self._start(0)

    def _stop(self) -> None:
        """Drain all; the second time in a hurry."""
        self._deadline = min(self._deadline, time.monotonic() + self._patience)
        self._stopping = True
        for pid in self._processes:
            os.kill(pid, signal.SIGTERM)

    def _start(self, index: int) -> None:
        ready, told = os.pipe()
        # What is sent before the new process has forgotten our handlers waits for that.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            os.close(told)
            self._processes[pid] = _Process(pid, index, time.monotonic(), ready)
            return
        status = 1
        try:
            os.close(self._parent)
            os.close(ready)
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            context = ProcessContext(
                index, self._counts, self._sockets, self._alive, told, self._folder
            )
            status = self._serve(context)
        finally:
            logging.shutdown()
            os._exit(status)  # what the parent has begun is not this process's to end

    def _on_ready(self, process: _Process) -> None:
        text = os.read(process.ready, 65536).decode()
        os.close(process.ready)
        process.ready = -1
        process.serves = bool(text)
        serving = sum(one.serves for one in self._processes.values())
        if not self._told and serving == self._counts.count:
            self._told = True
            print(text, flush=True)
        if not (process.serves and self._replacing[:1] == [process.index]):
            return
        for other in self._processes.values():
            if other.index == process.index and other is not process:
                other.replaced = True
                os.kill(other.pid, signal.SIGUSR1)
        self._replacing.pop(0)
        if self._replacing:
            self._start(self._replacing[0])

    def _reap(self) -> None:
        for process in list(self._processes.values()):
            pid, status = os.waitpid(process.pid, os.WNOHANG)
            if pid:
                del self._processes[pid]
                if process.ready >= 0:
                    os.close(process.ready)
                for path in self._metrics.glob(f"gauge_live*_{pid}.db"):
                    path.unlink(missing_ok=True)  # what ran in it runs no more
                self._on_end(process, os.waitstatus_to_exitcode(status))

    def _on_end(self, process: _Process, status: int) -> None:
        index = process.index
        # Another one replaces it, or should have been replaced by it.
        vacant = all(other.index != index for other in self._processes.values())
        if vacant:
            self._counts.remove(index)
        if self._stopping:
            return
        if not process.serves and self._replacing[:1] == [index]:
            logger.error("a new process does not start (status %d); the old ones stay", status)
            self._replacing = []
        elif not self._told and status == MISCONFIGURED:
            self._status = status
            self._stop()
        elif not process.replaced:
            logger.error("process %d ended with status %d", process.pid, status)
        if vacant:
            lived = time.monotonic() - process.began
            backoff = FIRST_BACKOFF if lived > STABLE else self._backoff[index]
            self._backoff[index] = min(2 * backoff, LONGEST_BACKOFF)
            self._restarts[index] = time.monotonic() + backoff
