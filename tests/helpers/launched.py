"""Real servers as processes: ours with any ini file, and nginx with the shipped configuration."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import harness
from harness import DEADLINE, wait_until

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """Return a free port below the range from which the system assigns ports to others."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return a process's environment: this Python's programs first in PATH, no settings or keys."""
    names = ("LANG", "PYTHONPATH", "XDG_CACHE_HOME")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**kept, "PATH": path, "HOME": str(home), "PYTHONUNBUFFERED": "1", **more}


class Launched:
    """A server process; with *port* 0 the port is read from its log."""

    def __init__(
        self,
        words: list[str],
        port: int,
        env: Mapping[str, str],
        log: Path,
        cwd: Path | None = None,
    ) -> None:
        self.port = port
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(words, env=env, cwd=cwd, stdout=output, stderr=output)
        try:
            wait_until(self._ready, f"{words[0]} listens", 60)
        except BaseException:
            self.abandon()
            raise
        self.url = f"http://127.0.0.1:{self.port}"

    def _ready(self) -> bool:
        text = self.log.read_text()
        assert self.process.poll() is None, text
        if not self.port:
            found = re.search(r"http://127\.0\.0\.1:(\d+)", text)
            self.port = int(found[1]) if found else 0
        return bool(self.port) and accepts(self.port)

    def connect(self) -> harness.Client:
        return harness.Client(("127.0.0.1", self.port))

    def end(self) -> int:
        """Stop it with SIGTERM; return its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(2 * DEADLINE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill it with SIGKILL, as a power cut would."""
        self.process.kill()
        self.process.wait(DEADLINE)

    def abandon(self) -> None:
        """Stop it with SIGTERM, or kill it if it does not end."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()


def launch(
    folder: Path, config: str, *arguments: str, home: Path | None = None, name: str = "serve"
) -> Launched:
    """Start ``choreo-wsgi serve`` with the ini file *config* on a free port."""
    ini = folder / f"{name}.ini"
    ini.write_text(config)
    words = [sys.executable, "-m", "choreo_wsgi", "serve", "--config", str(ini)]
    words += ["--listen", "127.0.0.1:0", *arguments]
    return Launched(words, 0, environment(home or folder), folder / f"{name}.log")


@contextmanager
def running(folder: Path, config: str, *arguments: str, **options: Any) -> Iterator[Launched]:
    """Run the server of :func:`launch` for the duration of the ``with`` block."""
    server = launch(folder, config, *arguments, **options)
    try:
        yield server
    finally:
        server.abandon()


def launch_nginx(folder: Path, ports: list[int]) -> Launched:
    """Start nginx with the shipped ``deploy/nginx.conf`` in front of *ports*, on a free port."""
    front = free_port()
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    for shipped, port in zip((8001, 8002, 8003), ports, strict=True):
        text = text.replace(f"127.0.0.1:{shipped}", f"127.0.0.1:{port}")
    text = text.replace("listen 8080", f"listen 127.0.0.1:{front}")
    text = text.replace("/run/nginx-choreo.pid", str(folder / "nginx.pid"))
    # nginx's default folders belong to root.
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    text = text.replace("http {", f"http {{ access_log off; {folders}")
    folder.chmod(0o755)
    config = folder / "nginx.conf"
    config.write_text(text)
    errors = folder / "nginx-error.log"
    user = "user root; " if os.geteuid() == 0 else ""  # other users may not enter the folder
    more = f"{user}daemon off; error_log {errors};"
    words = ["nginx", "-e", str(errors), "-c", str(config), "-g", more]
    return Launched(words, front, environment(folder), folder / "nginx.log")
