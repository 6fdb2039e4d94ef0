"""The server's side of the local model's process.

The model runs in a child process, so that a native crash does not end the server.  A
:class:`ModelProcess` starts it on demand, and again after it ended; each start is a
:class:`Run`, which callers wait for with a timeout.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from ..chat.items import Json
from ..errors import ChoreoError, ProviderNotConfigured, ProviderUnavailable
from .weights import RUNTIME

logger = logging.getLogger(__name__)

#: Seconds between attempts to start: a broken installation costs one process a second, not one a
#: request.
_RETRY_SECONDS = 1.0

#: Seconds for a process to exit before it is killed.
_GRACE = 2.0

#: Limit of bytes in a folder's path; that of a socket may have 103 (macOS) or 107.
_MAX_FOLDER = 90

NO_RUNTIME = f"the local model needs its runtime (the extra local): pip install {RUNTIME}"

#: The environment variables that the child inherits; API keys are not among them.
_ENVIRONMENT = frozenset(
    {"HOME", "LANG", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PATH", "SYSTEMROOT", "TMPDIR", "TEMP"}
)


@dataclass(frozen=True)
class Launch:
    """The options of the process; *context* is in tokens, divided among the *slots*."""

    model: str
    threads: int = 1
    slots: int = 4
    context: int = 8192


@dataclass(frozen=True)
class Endpoint:
    """The address of a model's server, its *key*, and whether the model can call *tools*."""

    url: str
    unix_socket: str
    key: str = field(repr=False)
    tools: bool


class ModelProcess:
    """Starts the model's process on demand; safe to use from any thread.

    If *unix* is false, it listens on a loopback port instead of a socket in a private folder, and
    only the random key keeps other users of the machine out.
    """

    def __init__(self, launch: Launch, *, unix: bool = hasattr(socket, "AF_UNIX")) -> None:
        self.launch = launch
        self._unix = unix
        self._lock = threading.Lock()
        self._run: Run | None = None
        if hasattr(os, "register_at_fork"):
            # A fork copies the pipe, and the model exits only when all copies are closed.
            os.register_at_fork(after_in_child=self._disown)

    def run(self) -> Run:
        """Return the current run of the process, starting one if there is none.

        Does not wait until the model is ready.  Raises ProviderUnavailable if no process can be
        started.
        """
        with self._lock:
            if self._run is None or self._run.over:
                try:
                    self._run = Run(self.launch, self._unix)
                except OSError as error:
                    logger.error("the local model's process cannot be started: %s", error)
                    text = "the local model's process cannot be started"
                    raise ProviderUnavailable(text) from error
            return self._run

    def close(self) -> None:
        """End the process; kill it if it does not exit."""
        with self._lock:
            run, self._run = self._run, None
        if run is not None:
            run.close()

    def _disown(self) -> None:
        """Forget the parent's run in a forked process: it must end with the parent."""
        self._lock = threading.Lock()
        run, self._run = self._run, None
        if run is not None:
            run.disown()


class Run:
    """One run of the process, from its start to its end."""

    def __init__(self, launch: Launch, unix: bool) -> None:
        self.launch = launch
        self._key = secrets.token_urlsafe(32)
        # Only this user has access to it.
        self._folder = tempfile.mkdtemp(prefix="choreo-")
        if len(os.fsencode(self._folder)) > _MAX_FOLDER:
            Path(self._folder).rmdir()
            self._folder = tempfile.mkdtemp(prefix="choreo-", dir="/tmp")
        self._unix_socket = str(Path(self._folder, "s.sock")) if unix else ""
        self._changed = threading.Condition()
        self._endpoint: Endpoint | None = None
        self._failure: ChoreoError | None = None
        self._ended_at: float | None = None
        self._closing = False
        self.started_at = time.monotonic()
        #: When the model last sent a byte, ``time.monotonic()``; readers of its answers set it.
        self.heard_at = self.started_at
        options = {
            **asdict(launch),
            "model": str(Path(launch.model).absolute()),
            "host": self._unix_socket or "127.0.0.1",
            "folder": self._folder,
            "key": self._key,
        }
        try:
            self._popen, self._stdin, self._stdout = _spawn(options, self._folder)
        except OSError:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        threading.Thread(target=self._watch, name="local-model", daemon=True).start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._popen.pid

    @property
    def over(self) -> bool:
        """Whether a new run may start: some time after this one ended if it failed to start."""
        with self._changed:
            if self._ended_at is None:
                return False
            elapsed = time.monotonic() - self._ended_at
            return self._endpoint is not None or elapsed > _RETRY_SECONDS

    def wait(self, timeout: float) -> Endpoint | None:
        """Return the endpoint when the model is ready, None after *timeout* seconds.

        Raises ProviderNotConfigured if the model cannot be loaded, ProviderUnavailable if its
        process has ended.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._endpoint or self._failure, timeout)
            if self._failure is not None:
                # A new error for each thread: raising one changes its traceback.
                raise type(self._failure)(self._failure.message)
            return self._endpoint

    def has_ended(self, timeout: float = 0.0) -> bool:
        """Return whether the process has ended; wait up to *timeout* seconds for that.

        After a crash its connections break before the system reports its end.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._ended_at is not None, timeout)

    def kill(self, reason: str) -> None:
        """Kill the process because it is stuck and log *reason*; do not wait for its end."""
        if not self.has_ended():
            logger.error("the local model's process is killed: %s", reason)
            self._popen.kill()

    def close(self) -> None:
        """End the process and wait for its end."""
        self._closing = True
        self._stdin.close()
        if not self.has_ended(_GRACE):
            self._popen.kill()
            self.has_ended(_GRACE)

    def disown(self) -> None:
        """Close a forked process's copies of the pipes."""
        self._stdin.close()
        self._stdout.close()
        self._popen.returncode = 0  # only the parent can wait for it

    def _watch(self) -> None:
        """Read the child's report, then wait for its end.  Runs in its own thread."""
        line = self._stdout.readline()
        if line.endswith(b"\n"):
            report = json.loads(line)
            with self._changed:
                if "error" in report:
                    self._failure = _explain(report["error"], report["message"], self.launch)
                    logger.error("the local model cannot be started: %s", report["message"])
                else:
                    url = "http://localhost" if self._unix_socket else report["address"]
                    self._endpoint = Endpoint(url, self._unix_socket, self._key, report["tools"])
                    seconds = time.monotonic() - self.started_at
                    logger.info("the local model is ready after %.1f s (%d)", seconds, self.pid)
                self._changed.notify_all()
        self._stdout.read()
        status = self._popen.wait()
        self._stdin.close()
        self._stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        ending = f"signal {-status}" if status < 0 else f"status {status}"
        with self._changed:
            if self._failure is None:
                text = f"the local model's process has ended ({ending})"
                self._failure = ProviderUnavailable(text)
                if not self._closing:
                    logger.error("%s; the next request starts it again", text)
            self._ended_at = time.monotonic()
            self._changed.notify_all()


def _spawn(options: Json, folder: str) -> tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]:
    """Start the child, send it its *options*; return it with its standard input and output.

    The options are sent through the pipe, because other users can read a command line.
    """
    environment = {name: value for name, value in os.environ.items() if name in _ENVIRONMENT}
    # The child must find the same modules as this process, which may be another WSGI server.
    environment["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    popen = subprocess.Popen(
        [_executable(), "-m", "choreo_wsgi.local.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        # -m puts the working folder first on the module path; this one is empty.
        cwd=folder,
        # A buffer has a lock, and a fork could copy it while it is held.
        bufsize=0,
    )
    assert popen.stdin is not None and popen.stdout is not None
    # A child that has ended already is reported by Run._watch.
    with contextlib.suppress(BrokenPipeError):
        popen.stdin.write(json.dumps(options).encode() + b"\n")
    return popen, popen.stdin, popen.stdout


def _explain(error: str, message: str, launch: Launch) -> ChoreoError:
    """Return the error for the child's exception of class *error*, with advice where possible."""
    if error == "ModuleNotFoundError" and "xllamacpp" in message:
        text = NO_RUNTIME
    elif "libgomp" in message:
        text = "the local model needs the library libgomp.so.1: apt-get install libgomp1"
    elif error in ("ImportError", "ModuleNotFoundError"):
        text = f"the local model's runtime cannot be loaded: {message}"
    else:
        name = Path(launch.model).name
        text = f"the local model cannot be loaded: {name} is not a GGUF file that it can read"
    return ProviderNotConfigured(text)


def _executable() -> str:
    """Return the path of this process's Python interpreter.

    Inside uWSGI and mod_wsgi ``sys.executable`` is the server's binary or empty; the interpreter is
    then looked up in its environment's folder.
    """
    if Path(sys.executable).name.lower().startswith(("python", "pypy")):
        return sys.executable
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for name in (version, "python3", "python", "Scripts/python.exe", "python.exe"):
        for folder in ("bin", ""):
            path = Path(sys.exec_prefix, folder, name)
            if path.is_file():
                return str(path)
    return version
