"""The local model behind the whole server, over real sockets."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Client, Server, make_app, wait_until
from local_helpers import DEADLINE, ENDLESS, becomes_idle

from choreo_wsgi.app.application import Application
from choreo_wsgi.local.provider import Local

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")

SETTINGS = {"local_slots": "1", "local_max_tokens_limit": "100000"}


@pytest.fixture
def app(model_file: Path, request: pytest.FixtureRequest) -> Iterator[Application]:
    """An application without keys, whose local model answers for every model name.

    The fixture's parameter is the heartbeat in seconds.
    """
    app = make_app({**SETTINGS, "heartbeat_seconds": getattr(request, "param", "60")})
    yield app
    app.close()


def local_provider(app: Application) -> Local:
    (provider,) = [p for p in app.router.providers.values() if isinstance(p, Local)]
    return provider


def send_chat(server: Server, *, model: str = "gpt-4", text: str = "Hi!", **fields: Any) -> Client:
    client = server.connect(DEADLINE)
    messages = [{"role": "user", "content": text}]
    body = {"model": model, "messages": messages, "stream": True, **fields}
    client.request("POST", "/v1/chat/completions", body)
    return client


def read_frames(client: Client) -> tuple[list[bytes], int]:
    """Read to the end; return the events' data and the number of pings."""
    data, pings = [], 0
    while frame := client.read_frame():
        if frame == b": ping\n":
            pings += 1
        else:
            data.append(frame.removeprefix(b"data: ").rstrip(b"\n"))
    return data, pings


@pytest.mark.parametrize("app", ["0.05"], indirect=True)
def test_pings_while_the_model_starts(app: Application, serve: Callable[..., Server]) -> None:
    client = send_chat(serve(app), max_tokens=3)
    head = client.read_head()
    assert head.headers["choreo-provider"] == "local/SmolLM2-135M-Instruct"
    data, pings = read_frames(client)
    client.close()
    assert pings
    assert data[-1] == b"[DONE]"
    first, *_, last = map(json.loads, data[:-1])
    assert first["model"] == "gpt-4"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert last["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "length"}


@linux_only
@pytest.mark.parametrize(("prompt", "stream"), [("Tell me.", False), ("word " * 7000, True)])
def test_client_disconnect_stops_the_model(
    app: Application, serve: Callable[..., Server], prompt: str, stream: bool
) -> None:
    server = serve(app)
    app.preload()
    client = send_chat(server, text=prompt, stream=stream, max_tokens=100_000, **ENDLESS)
    wait_until(lambda: app.active, "no request is active")
    run = local_provider(app)._process.run()
    started_at = run.heard_at
    wait_until(lambda: run.heard_at > started_at, "the model makes no progress", DEADLINE)
    client.close()
    wait_until(lambda: not app.active, "the request is still active")
    assert becomes_idle(run.pid)


def test_crash_sends_an_error_frame_and_the_next_request_works(
    app: Application, serve: Callable[..., Server]
) -> None:
    server = serve(app)
    client = send_chat(server, max_tokens=100_000, **ENDLESS)
    client.read_head()
    while client.read_frame() == b": ping\n":
        pass
    os.kill(local_provider(app)._process.run().pid, signal.SIGKILL)
    data, _ = read_frames(client)
    client.close()
    assert json.loads(data[-1])["error"]["code"] == "upstream_truncated"
    assert b"[DONE]" not in data
    second = send_chat(server, max_tokens=2)
    second.read_head()
    data, _ = read_frames(second)
    second.close()
    assert data[-1] == b"[DONE]"


@linux_only
def test_stopped_process_is_killed_after_idle_timeout(
    model_file: Path, serve: Callable[..., Server]
) -> None:
    app = make_app({**SETTINGS, "heartbeat_seconds": "600", "idle_timeout": "0.5"})
    app.preload()
    run = local_provider(app)._process.run()
    assert run.wait(DEADLINE)
    os.kill(run.pid, signal.SIGSTOP)
    client = send_chat(serve(app))
    reply = client.read_answer()
    client.close()
    ended = run.has_ended(DEADLINE)
    app.close()
    assert ended
    assert (reply.status, reply.error["code"]) == (504, "provider_timeout")


def test_rejected_request_gets_status_400(app: Application, serve: Callable[..., Server]) -> None:
    app.preload()
    assert local_provider(app)._process.run().wait(DEADLINE)
    server = serve(app)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    for fields, param, code in (
        ({"tools": tools}, "tools", "invalid_parameter_value"),
        ({"text": "word " * 9000}, "messages", "context_length_exceeded"),
    ):
        client = send_chat(server, **fields)
        reply = client.read_answer()
        client.close()
        assert reply.status == 400
        assert (reply.error["param"], reply.error["code"]) == (param, code)
