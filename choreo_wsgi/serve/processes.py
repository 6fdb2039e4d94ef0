"""Several processes that share the listening sockets, to use more than one core.

The parent binds the sockets, forks the processes and supervises them; it has no application.  All
processes accept from the same sockets: with a socket each (SO_REUSEPORT), the connections in the
queue of a process that dies would be lost.  A process with more than its share of the connections
pauses for a moment before it accepts, so that the others accept first.

The parent is one loop without threads: it waits for signals, pipes and the times of restarts.  A
process that serves writes the text to print to its ``ready`` pipe, which also closes when it dies.
It reads from the ``parent`` pipe, which closes when the parent dies; then the process drains.

A process that dies is started again, later each time.  SIGTERM and SIGINT drain all.  SIGHUP
replaces them one by one: a new process reads the configuration, and when it serves, SIGUSR1
retires the old one, so that no connection is refused.  If the new one fails, the old ones stay.
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

#: Seconds before a process that died is started again, at first and at most.  A process that has
#: run for STABLE seconds is restarted after FIRST_BACKOFF again.
FIRST_BACKOFF, LONGEST_BACKOFF, STABLE = 0.2, 10.0, 30.0

#: Seconds after ``drain_seconds`` in which a process ends by itself; one that has not, because it
#: was stopped (SIGSTOP), is killed.
ENDING = 8.0

_ABSENT = 0xFFFFFFFF

# The signals that the parent handles; its processes set handlers of their own.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

#: The exit status of a process with an invalid configuration, which ends all at the start.
MISCONFIGURED = 2


def process_count(settings: Settings) -> int:
    """Return the number of processes of *settings*; raises ConfigurationError."""
    text = settings.processes
    if text == "auto":
        with contextlib.suppress(AttributeError):  # not on macOS
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 256):
        raise ConfigurationError(f"processes: {text!r} is neither auto nor a number from 1 to 256")
    if int(text) > 1 and not hasattr(os, "fork"):
        raise ConfigurationError("processes: this system supports only one process")
    return int(text)


class ConnectionCounts:
    """The numbers of connections of *count* processes, in shared memory; each writes its own."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._numbers = memoryview(mmap.mmap(-1, 4 * count)).cast("I")
        for index in range(count):
            self.remove(index)

    def remove(self, index: int) -> None:
        """Leave process *index*, which does not run, out of the mean."""
        self._numbers[index] = _ABSENT

    def report(self, index: int, connections: int) -> bool:
        """Set the number of process *index*; return whether it is clearly above the mean."""
        self._numbers[index] = connections
        running = [number for number in self._numbers if number != _ABSENT]
        # Short requests vary by some connections: a pause for those would only leave a core idle.
        return bool(connections > 1.05 * sum(running) / len(running) + 4)


@dataclass
class ProcessContext:
    """One of ``counts.count`` processes: its *index*, and the *sockets* to accept from."""

    index: int
    counts: ConnectionCounts
    sockets: list[socket.socket]
    #: The read end of a pipe that closes when the parent ends.
    parent: int
    #: The write end of the pipe for the text that is printed once all serve.
    ready: int
    #: A temporary folder that all processes share.
    folder: Path

    def configure(self, configuration: Configuration) -> Configuration:
        """Return *configuration* with this process's share of the streams and a shared log."""
        settings = configuration.settings
        streams = settings.max_streams // self.counts.count
        streams += self.index < settings.max_streams % self.counts.count
        changes: dict[str, Any] = {"max_streams": max(1, streams)}
        if settings.replay == "memory:":  # which another process cannot read
            changes["replay"] = f"sqlite:{self.folder / 'replay.sqlite'}"
        return replace(configuration, settings=replace(settings, **changes))

    def announce(self, text: str, drain: Callable[[], None], retire: Callable[[], None]) -> None:
        """Report to the parent that this process serves; it prints *text* once all do.

        *drain* is called when the parent has ended, *retire* when another process takes over.
        """

        def replaced(number: int, frame: object) -> None:
            threading.Thread(target=retire, name="retire", daemon=True).start()

        def watch() -> None:
            os.read(self.parent, 1)
            drain()

        signal.signal(signal.SIGUSR1, replaced)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the parent handles it
        threading.Thread(target=watch, name="parent", daemon=True).start()
        self.counts.report(self.index, 0)
        os.write(self.ready, text.encode())
        os.close(self.ready)


@dataclass
class _Process:
    pid: int
    index: int
    began: float
    ready: int  # the pipe's read end; -1 once it was read and closed
    serves: bool = False
    replaced: bool = False


class Supervisor:
    """Runs *serve* in *count* processes that accept from *sockets*.

    *serve* is called in each process, and returns its exit status.  A process that has not ended
    *patience* seconds after it was told to is killed.
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
        self._deadline = math.inf  # when the remaining processes are killed
        self._sockets = sockets
        self._counts = ConnectionCounts(count)
        self._processes: dict[int, _Process] = {}
        self._restarts: dict[int, float] = {}  # the times at which indices are started again
        self._backoff = [FIRST_BACKOFF] * count
        self._replacing: list[int] = []  # the indices to replace; the first is in progress
        self._replace_again = False  # SIGHUP was received
        self._signals: list[int] = []
        self._stopping = False
        self._announced = False
        self._status = 0
        self._folder = Path(tempfile.mkdtemp(prefix="choreo-"))
        metrics = self._folder / "metrics"
        metrics.mkdir()
        # The folder in which prometheus_client, if used, stores the metrics of each process.
        self._metrics = Path(os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(metrics)))
        # Never written to: the system closes it when the parent ends, for whatever reason.
        self._alive, self._parent = os.pipe()
        self._wake_reader, self._waker = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._waker.setblocking(False)

    def run(self) -> int:
        """Supervise the processes until SIGTERM or SIGINT; return the exit status."""
        for number in _SIGNALS:
            signal.signal(number, lambda number, frame: self._signals.append(number))
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        try:
            for index in range(self._counts.count):
                self._start(index)
            while self._processes or self._restarts:
                self._round()
        finally:
            signal.set_wakeup_fd(-1)
            shutil.rmtree(self._folder, ignore_errors=True)
        return self._status

    def _round(self) -> None:
        waiting: list[Any] = [one.ready for one in self._processes.values() if one.ready >= 0]
        due = min([*self._restarts.values(), self._deadline, time.monotonic() + 60])
        patience = max(0.0, due - time.monotonic())
        ready, _, _ = select.select([self._wake_reader, *waiting], [], [], patience)
        with contextlib.suppress(BlockingIOError):
            self._wake_reader.recv(4096)
        while self._signals:
            number = self._signals.pop(0)
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop()
            elif number == signal.SIGHUP:
                self._replace_again = True
        for process in list(self._processes.values()):
            if process.ready in ready:
                self._on_ready(process)
        self._reap()
        now = time.monotonic()
        for pid in self._processes if now >= self._deadline else ():
            logger.error("process %d does not end and is killed", pid)
            os.kill(pid, signal.SIGKILL)
            self._deadline = math.inf
        for index in [index for index, when in self._restarts.items() if when <= now]:
            self._start(index)
        if self._replace_again and not (self._replacing or self._stopping):
            self._replace_again = False
            self._replacing = list(range(self._counts.count))
            self._start(0)

    def _stop(self) -> None:
        """Drain all processes; a second signal shortens their drain."""
        self._deadline = min(self._deadline, time.monotonic() + self._patience)
        self._stopping = True
        self._restarts.clear()
        self._replacing.clear()
        for pid in self._processes:
            os.kill(pid, signal.SIGTERM)

    def _start(self, index: int) -> None:
        self._restarts.pop(index, None)  # SIGHUP may start it earlier
        ready, writer = os.pipe()
        # Blocked until the new process has reset the handlers that it inherits.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(writer)
            self._processes[pid] = _Process(pid, index, time.monotonic(), ready)
            return
        status = 1
        try:
            os.close(self._parent)
            os.close(ready)
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            context = ProcessContext(
                index, self._counts, self._sockets, self._alive, writer, self._folder
            )
            status = self._serve(context)
        finally:
            logging.shutdown()
            os._exit(status)  # without the exit handlers and finally blocks of the parent

    def _on_ready(self, process: _Process) -> None:
        text = os.read(process.ready, 65536).decode()
        os.close(process.ready)
        process.ready = -1
        process.serves = bool(text)
        serving = sum(one.serves for one in self._processes.values())
        if not self._announced and serving == self._counts.count:
            self._announced = True
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
                    path.unlink(missing_ok=True)  # the process's live gauges
                self._on_end(process, os.waitstatus_to_exitcode(status))

    def _on_end(self, process: _Process, status: int) -> None:
        index = process.index
        # False when it was replaced, or failed to replace another process.
        vacant = all(other.index != index for other in self._processes.values())
        if vacant:
            self._counts.remove(index)
        if self._stopping:
            return
        if not process.serves and self._replacing[:1] == [index]:
            logger.error("a new process does not start (status %d); the old ones stay", status)
            self._replacing = []
        elif not self._announced and status == MISCONFIGURED:
            self._status = status
            self._stop()
        elif not process.replaced:
            logger.error("process %d ended with status %d", process.pid, status)
        if vacant:
            lived = time.monotonic() - process.began
            backoff = FIRST_BACKOFF if lived > STABLE else self._backoff[index]
            self._backoff[index] = min(2 * backoff, LONGEST_BACKOFF)
            self._restarts[index] = time.monotonic() + backoff
