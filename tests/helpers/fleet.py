"""Replicas of the server behind nginx, with the configuration that the project ships."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from harness import DEADLINE, wait_until

ROOT = Path(__file__).parent.parent.parent
KEY = "fleet-key"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


class Replica:
    """A running ``choreo-wsgi serve`` with an echo that takes its time."""

    def __init__(self, folder: Path, name: str, more: str = "", **settings: str) -> None:
        """Start it with the sections *more* in its ini file."""
        self.log = folder / f"{name}.log"
        config = folder / f"{name}.ini"
        choreo = {"api_keys": KEY, "default_model": "none", **settings}
        lines = ["[choreo]", *(f"{key} = {value}" for key, value in choreo.items())]
        lines += ["[provider slow]", "type = echo", "delay_ms = 40", "models = slow", more]
        config.write_text("\n".join(lines) + "\n")
        words = ["serve", "--config", str(config), "--listen", "127.0.0.1:0"]
        environment: Mapping[str, str] = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONUNBUFFERED": "1",
        }
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "choreo_wsgi", *words],
                env=environment,
                stdout=output,
                stderr=output,
            )
        wait_until(self._ready, f"{name} serves", 30)

    def _ready(self) -> bool:
        text = self.log.read_text()
        assert self.process.poll() is None, text
        found = re.search(r"http://127\.0\.0\.1:(\d+)", text)
        self.port = int(found[1]) if found else 0
        return bool(found)

    def end(self) -> int:
        """End it in the orderly way; return its exit status."""
        self.process.terminate()
        return self.process.wait(3 * DEADLINE)

    def kill(self) -> None:
        """End it as a power cut does."""
        self.process.kill()
        self.process.wait(DEADLINE)


class Nginx:
    """The shipped ``deploy/nginx.conf`` in front of *ports*, on a port of its own."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self.port = free_port()
        text = (ROOT / "deploy" / "nginx.conf").read_text()
        for shipped, port in zip((8001, 8002, 8003), ports, strict=True):
            text = text.replace(f"127.0.0.1:{shipped}", f"127.0.0.1:{port}")
        text = text.replace("listen 8080", f"listen 127.0.0.1:{self.port}")
        text = text.replace("/run/nginx-choreo.pid", str(folder / "nginx.pid"))
        folder.chmod(0o755)
        config = folder / "nginx.conf"
        config.write_text(text)
        errors = folder / "nginx-error.log"
        more = f"daemon off; error_log {errors};"
        self.process = subprocess.Popen(
            ["nginx", "-e", str(errors), "-c", str(config), "-g", more],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: accepts(self.port), "nginx listens")

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(DEADLINE)
