"""Fixtures: the server in a thread around any application, and the real command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import harness
import pytest
from plain_apps import Handler, PlainApp, Running

from choreo_wsgi import cli
from choreo_wsgi.settings import Settings


@pytest.fixture
def run_app() -> Iterator[Callable[..., Running]]:
    """``run_app(handler, **settings)``: our server around one function, on a free port."""
    running: list[Running] = []

    def start(handler: Handler, **settings: Any) -> Running:
        chosen: dict[str, Any] = {"listen": ("127.0.0.1:0",), "drain_seconds": 0.0, **settings}
        chosen.setdefault("max_streams", 8)
        running.append(Running(PlainApp(handler, Settings(**chosen))))
        return running[-1]

    yield start
    for one in running:
        one.close()


class Command:
    """A running ``choreo-wsgi serve``; ``banner`` is its output up to the curl line."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str]) -> None:
        argv = [sys.executable, "-m", "choreo_wsgi", "serve", *arguments]
        self.process = subprocess.Popen(
            argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.banner = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.banner += line
            if line.startswith("  curl"):
                break
        else:
            pytest.fail(f"the server did not start: {self.finish()}")
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.banner)
        self.port = int(found.group(1)) if found else 0

    def connect(self, timeout: float = harness.DEADLINE) -> harness.Client:
        return harness.Client(("127.0.0.1", self.port), timeout)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def resident(self) -> int:
        """Return the bytes of memory in use."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def finish(self, seconds: float = harness.DEADLINE) -> int:
        """Wait until the process ends; return the exit status."""
        try:
            self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            pytest.fail(f"the server still runs after {seconds} s")
        return self.process.returncode


@pytest.fixture
def bare_environment(tmp_path: Path) -> dict[str, str]:
    """The environment of the tests without settings and API keys."""
    kept = ("PATH", "LANG", "PYTHONPATH", "VIRTUAL_ENV")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    return {**environment, "HOME": str(tmp_path)}


@pytest.fixture
def command(bare_environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """``command(*arguments, ini="", **environment)``: the real server on a free port."""
    commands: list[Command] = []

    def start(*arguments: str, ini: str = "", **environment: str) -> Command:
        argv = list(arguments)
        if ini:
            path = tmp_path / f"choreo-{len(commands)}.ini"
            path.write_text(ini)
            argv += ["--config", str(path)]
        if not any(word in ("--listen", "--unix-socket") for word in argv):
            argv += ["--listen", "127.0.0.1:0"]
        commands.append(Command(argv, {**bare_environment, **environment}))
        return commands[-1]

    yield start
    for one in commands:
        if one.process.poll() is None:
            one.signal(signal.SIGKILL)
        one.process.communicate()


def configured(ini: str, folder: Path) -> list[str]:
    """Write *ini* to a file in *folder*; return the arguments that name it, if it is not empty."""
    path = folder / "choreo.ini"
    path.write_text(ini)
    return ["--config", str(path)] if ini else []


@pytest.fixture
def run(
    bare_environment: dict[str, str], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run(*arguments, ini="", **environment)``: run the command to its end."""

    def call(
        *arguments: str, ini: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "choreo_wsgi", *arguments, *configured(ini, tmp_path)],
            env={**bare_environment, **environment},
            capture_output=True,
            text=True,
            timeout=2 * harness.DEADLINE,
            check=False,
        )

    return call


@pytest.fixture
def run_here(
    bare_environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """As ``run``, but in this process: for arguments that end it before it serves."""

    def call(
        *arguments: str, ini: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        argv = [*arguments, *configured(ini, tmp_path)]
        monkeypatch.setattr(os, "environ", {**bare_environment, **environment})
        try:
            status = cli.main(argv)
        except SystemExit as ended:  # raised by argparse
            status = int(ended.code or 0)
        return subprocess.CompletedProcess(argv, status, *capsys.readouterr())

    return call
