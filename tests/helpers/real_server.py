"""Real servers as processes, in front of an upstream whose every byte a test sends."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import harness
from fleet import accepts, free_port
from live_upstream import Call, LiveUpstream

ROOT = Path(__file__).resolve().parents[2]
KEY = "interop-key"

#: Seconds of silence after which the servers of these tests send a ping.
HEARTBEAT = 0.2


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment for a process: programs of this Python first, no settings or keys."""
    kept = {name: os.environ[name] for name in ("LANG", "XDG_CACHE_HOME") if name in os.environ}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**kept, "PATH": path, "HOME": str(home), "PYTHONUNBUFFERED": "1", **more}


class Launched:
    """A server process that listens on *port* of the loopback interface."""

    def __init__(
        self,
        words: list[str],
        port: int,
        env: Mapping[str, str],
        log: Path,
        cwd: Path | None = None,
    ) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(words, env=env, cwd=cwd, stdout=output, stderr=output)
        harness.wait_until(self._ready, f"{words[0]} listens", 60)

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return accepts(self.port)

    def connect(self) -> harness.Client:
        return harness.Client(("127.0.0.1", self.port))

    def end(self) -> int:
        """End it in the orderly way; return its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(3 * harness.DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def abandon(self) -> None:
        """End it, whatever it is doing."""
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@contextmanager
def running(
    folder: Path, config: str, *arguments: str, home: Path | None = None
) -> Iterator[Launched]:
    """``choreo-wsgi serve`` with the ini file *config*, for as long as the block runs."""
    ini = folder / "choreo.ini"
    ini.write_text(config)
    port = free_port()
    words = [sys.executable, "-m", "choreo_wsgi", "serve", "--config", str(ini)]
    words += ["--listen", f"127.0.0.1:{port}", *arguments]
    env = environment(home or folder)
    server = Launched(words, port, env, folder / "serve.log")
    try:
        yield server
    finally:
        server.abandon()


def told_ini(upstream: LiveUpstream, **settings: Any) -> str:
    """Return an ini file in which ``told`` and ``gpt-4`` say what the test says.

    ``paced`` is an echo at the speed of a fast model.
    """
    chosen = {
        "heartbeat_seconds": HEARTBEAT,
        "default_model": "none",
        "drain_seconds": 0,
        **settings,
    }
    lines = ["[choreo]", *(f"{name} = {value}" for name, value in chosen.items())]
    lines += ["[provider told]", "type = openai", f"base_url = {upstream.url}/v1"]
    lines += ["models = told, gpt-4 = told"]
    lines += ["[provider paced]", "type = echo", "delay_ms = 4", "models = paced"]
    return "\n".join(lines) + "\n"


class Answer:
    """An answer that goes out frame by frame, each when the test says so."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.asked: dict[str, Any] = json.loads(call.asked.body)

    def begin(self) -> Answer:
        """Send the head and the frame with the role."""
        self.call.head("text/event-stream")
        return self._delta({"role": "assistant", "content": ""})

    def say(self, text: str, index: int = 0) -> Answer:
        """Send a frame with *text*."""
        return self._delta({"content": text}, index=index)

    def finish(self, reason: str = "stop") -> None:
        """Send what a whole answer ends with."""
        self._delta({}, reason)
        self.call.send(b"data: [DONE]\n\n")
        self.call.finish()

    def _delta(self, delta: Any, reason: str | None = None, index: int = 0) -> Answer:
        chunk = {
            "id": "chatcmpl-told",
            "object": "chat.completion.chunk",
            "created": 1700000000,
            "model": "told",
            "choices": [{"index": index, "delta": delta, "finish_reason": reason}],
        }
        self.call.send(b"data: %b\n\n" % json.dumps(chunk, separators=(",", ":")).encode())
        return self


def read_printed(process: subprocess.Popen[bytes], text: str) -> None:
    """Read what *process* prints as it comes; it must be *text*, so far."""
    assert process.stdout is not None
    printed, expected = b"", text.encode()
    while len(printed) < len(expected):
        ready, _, _ = select.select([process.stdout], [], [], harness.DEADLINE)
        assert ready, f"only {printed!r} came of {expected!r}"
        piece = os.read(process.stdout.fileno(), len(expected) - len(printed))
        assert piece, f"it ended after {printed!r}"
        printed += piece
    assert printed == expected


def read_rest(process: subprocess.Popen[bytes]) -> str:
    """Return what *process* prints until it ends, which it must do well."""
    try:
        out, err = process.communicate(timeout=3 * harness.DEADLINE)
    finally:
        process.kill()
    assert process.returncode == 0, err.decode()
    return out.decode()


def ask(text: str = "Hello", model: str = "told", **members: Any) -> dict[str, Any]:
    """Return a request's body."""
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "stream": True, **members}


def read_event(client: harness.Client) -> dict[str, Any] | str:
    """Return the JSON of the next frame that is no ping, or ``[DONE]``."""
    while (frame := client.read_frame()).startswith(b":"):
        pass
    line = frame.removesuffix(b"\n\n").split(b"\n")[-1]
    assert line.startswith(b"data: "), frame
    data = line[6:]
    return "[DONE]" if data == b"[DONE]" else dict(json.loads(data))


def read_text(client: harness.Client) -> str:
    """Return the text of the next frame."""
    event = read_event(client)
    assert isinstance(event, dict) and "choices" in event, event
    return str(event["choices"][0]["delta"].get("content", ""))
