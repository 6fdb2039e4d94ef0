"""An upstream whose answers a test writes frame by frame, for servers in their own processes."""

from __future__ import annotations

import json
import os
import select
import subprocess
from typing import Any

import harness
from raw_server import Peer, RawServer

KEY = "interop-key"

#: Seconds of silence after which the servers of these tests send a ping.
HEARTBEAT = 0.2


def told_ini(upstream: RawServer, **settings: Any) -> str:
    """Return an ini file in which *upstream* has the models ``told`` and ``gpt-4``.

    ``paced`` is an echo at the speed of a fast model.
    """
    told = ["[provider told]", "type = openai", f"base_url = {upstream.url}/v1"]
    told += ["models = told, gpt-4 = told"]
    chosen = {"heartbeat_seconds": HEARTBEAT, "drain_seconds": 0, **settings}
    return _ini(chosen, *told, "[provider paced]", "type = echo", "delay_ms = 4", "models = paced")


def slow_echo(*more: str, **settings: Any) -> str:
    """Return an ini file with the key ``KEY``, in which ``slow`` is an echo of 40 ms per word.

    *more* are the lines of further sections.
    """
    echo = ["[provider slow]", "type = echo", "delay_ms = 40", "models = slow"]
    return _ini({"api_keys": KEY, **settings}, *echo, *more)


def _ini(settings: dict[str, Any], *lines: str) -> str:
    chosen = {"default_model": "none", **settings}
    common = (f"{name} = {value}" for name, value in chosen.items())
    return "\n".join(["[choreo]", *common, *lines, ""])


class Answer:
    """An answer to *call* whose frames are sent one by one, by the test."""

    def __init__(self, call: Peer) -> None:
        self.call = call
        self.asked: dict[str, Any] = json.loads(call.request.body)

    def begin(self) -> Answer:
        """Send the head and the frame with the role."""
        self.call.head()
        return self._delta({"role": "assistant", "content": ""})

    def say(self, text: str, index: int = 0) -> Answer:
        """Send a frame with *text*."""
        return self._delta({"content": text}, index=index)

    def finish(self, reason: str = "stop") -> None:
        """Send the end of a complete answer."""
        self._delta({}, reason)
        self.call.body(b"data: [DONE]\n\n")
        self.call.end()

    def _delta(self, delta: Any, reason: str | None = None, index: int = 0) -> Answer:
        chunk = {
            "id": "chatcmpl-told",
            "object": "chat.completion.chunk",
            "created": 1700000000,
            "model": "told",
            "choices": [{"index": index, "delta": delta, "finish_reason": reason}],
        }
        self.call.body(b"data: %b\n\n" % json.dumps(chunk, separators=(",", ":")).encode())
        return self


def read_printed(process: subprocess.Popen[bytes], text: str) -> None:
    """Read the output of *process* until it is *text*; fail as soon as it differs."""
    assert process.stdout is not None
    printed, expected = b"", text.encode()
    while len(printed) < len(expected):
        ready, _, _ = select.select([process.stdout], [], [], harness.DEADLINE)
        assert ready, f"only {printed!r} was printed of {expected!r}"
        piece = os.read(process.stdout.fileno(), len(expected) - len(printed))
        assert piece, f"it ended after {printed!r}"
        printed += piece
    assert printed == expected


def read_rest(process: subprocess.Popen[bytes]) -> str:
    """Return the rest of the output of *process*; fail if its exit status is not 0."""
    try:
        out, err = process.communicate(timeout=2 * harness.DEADLINE)
    finally:
        process.kill()
    assert process.returncode == 0, err.decode()
    return out.decode()


def ask(text: str = "Hello", model: str = "told", **members: Any) -> dict[str, Any]:
    """Return a request's body."""
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "stream": True, **members}


def read_event(client: harness.Client) -> dict[str, Any] | str:
    """Return the JSON of the next frame that is not a ping, or ``[DONE]``."""
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
