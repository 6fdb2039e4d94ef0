"""The callable under waitress-serve, gunicorn and uWSGI, with the flags of the README."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import harness
import pytest

import choreo_wsgi

RequireTool = Callable[[str, str], str]

DONE = b"data: [DONE]\n\n"

WAITRESS = """
    waitress-serve --listen=127.0.0.1:0 --threads=32 --connection-limit=1000
    --asyncore-use-poll --channel-request-lookahead=1 --channel-timeout=75
    --outbuf-high-watermark=131072 --max-request-body-size=8454144
    --no-clear-untrusted-proxy-headers choreo_wsgi:app
"""
GUNICORN = """
    gunicorn --bind 127.0.0.1:0 --worker-class gthread --workers 1 --threads 32
    --worker-connections 1000 --keep-alive 75 --graceful-timeout 20 choreo_wsgi:app
"""
UWSGI = """
    uwsgi --plugin python3 --http-socket 127.0.0.1:0 --master --processes 1 --threads 32
    --enable-threads --lazy-apps --need-app --die-on-term --buffer-size 65535
    --socket-timeout 60 --ignore-sigpipe --disable-logging --module choreo_wsgi.wsgi:app
"""
INI = """
[choreo]
max_streams = 1
heartbeat_seconds = 0.3
default_model = none
[provider echo]
type = echo
models = echo
delay_ms = 100
[provider silent]
type = echo
models = silent
delay_ms = 3600000
"""


class Other:
    """Another WSGI server around our callable; its log names the port."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.log = ""
        lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(lines,), daemon=True)
        self._reader.start()
        while (line := lines.get(timeout=harness.DEADLINE)) is not None:
            found = re.search(r"(?:Serving on|Listening at:) http://127\.0\.0\.1:(\d+)", line)
            found = found or re.search(r"bound to TCP address 127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found.group(1))
                return
        pytest.fail(f"the server did not start:\n{self.log}")

    def _read(self, lines: queue.Queue[str | None]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log += line
            lines.put(line)
        lines.put(None)

    def connect(self) -> harness.Client:
        return harness.Client(("127.0.0.1", self.port))

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(harness.DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(harness.DEADLINE)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture(params=[WAITRESS, GUNICORN, UWSGI], ids=["waitress-serve", "gunicorn", "uwsgi"])
def other(
    request: pytest.FixtureRequest,
    bare_environment: dict[str, str],
    tmp_path: Path,
    require_tool: RequireTool,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Other]:
    program, *words = request.param.split()
    scripts = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
    package = {"uwsgi": "uwsgi-plugin-python3"}.get(program, program)
    config = tmp_path / "choreo.ini"
    config.write_text(INI)
    environment = {**bare_environment, "CHOREO_CONFIG": str(config)}
    if program == "uwsgi":  # embeds the system's Python, without our environment
        packages = [folder for folder in sys.path if folder.endswith("site-packages")]
        folders = [str(Path(choreo_wsgi.__file__).parents[1]), *packages]
        environment["PYTHONPATH"] = os.pathsep.join(folders)
    server = Other([require_tool(program, package), *words], environment)
    yield server
    server.close()


def send_chat(client: harness.Client, model: str, words: int = 5) -> None:
    content = " ".join(f"w{number}" for number in range(words))
    message = {"role": "user", "content": content}
    body = {"model": model, "messages": [message], "stream": True}
    client.request("POST", "/v1/chat/completions", body)


def accepted(server: Other) -> bool:
    """Whether the one slot is free now."""
    with server.connect() as client:
        send_chat(client, "echo", 1)
        head = client.read_head()
        if head.status != 200:
            assert head.status == 503
            return False
        return client.read_body().endswith(DONE)


def test_streams_cancels_and_rejects_overload(other: Other) -> None:
    """The one slot is released by an end, by a disconnect, and by a disconnect in silence."""
    with other.connect() as client:
        send_chat(client, "echo", 5)
        head = client.read_head()
        assert head.status == 200
        assert head.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert client.read_body().endswith(DONE)
    for model in ("echo", "silent"):
        harness.wait_until(lambda: accepted(other), "the slot is free")
        client = other.connect()
        send_chat(client, model, 10_000)
        assert client.read_head().status == 200
        for _ in range(4):  # they arrive long before the end
            client.read_frame()
        with other.connect() as second:
            send_chat(second, "echo")
            answer = second.read_answer()
            assert (answer.status, answer.error["code"]) == (503, "service_overloaded")
            assert answer.headers["retry-after"] == "1"
        client.close()
        harness.wait_until(lambda: accepted(other), f"the slot of {model} is free again")
