"""Every API on disconnects, with a full log pipe, and without free descriptors."""

from __future__ import annotations

import fcntl
import json
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import harness
import pytest
from launched import Launched, running
from raw_server import Peer, RawServer, chat_chunk

Start = Callable[..., Any]

INI = """
[provider native]
type = openai
base_url = {url}
apis = chat, responses, messages
models = native

[provider translated]
type = openai
base_url = {url}
apis = chat
models = translated

[provider claude]
type = anthropic
base_url = {home}
api_key = k
models = claude
"""
MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}
#: Request bodies by path, without the model.
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": MESSAGES,
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {**MESSAGES, "max_tokens": 9},
    "/v1/messages/count_tokens": MESSAGES,
    "/v1/completions": {"prompt": "hi"},
    "/v1/embeddings": {"input": "hi"},
}
CASES = [
    (path, model, stream)
    for path in BODIES
    for model in ("native", "translated")
    for stream in (True, False)
    if not path.endswith("count_tokens") and not (stream and path.endswith("embeddings"))
]
CASES += [("/v1/messages", "claude", True), ("/v1/messages/count_tokens", "claude", False)]


def settings(upstream: RawServer) -> str:
    return INI.format(url=upstream.base_url, home=upstream.base_url.removesuffix("/v1"))


def send(client: harness.Client, path: str, model: str, stream: bool) -> None:
    body = {"model": model, **BODIES[path], **({"stream": True} if stream else {})}
    client.request("POST", path, body)


REPLIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
        ]
    },
    "/v1/responses": {"id": "resp_1", "object": "response", "status": "completed", "output": []},
    "/v1/messages": {"id": "msg_1", "type": "message", "content": [], "stop_reason": "end_turn"},
    "/v1/messages/count_tokens": {"input_tokens": 1},
    "/v1/completions": {"choices": [{"index": 0, "text": "x", "finish_reason": "stop"}]},
    "/v1/embeddings": {"data": [{"index": 0, "embedding": [0.5]}]},
}
FIRST_FRAMES: dict[str, bytes] = {
    "/v1/chat/completions": b"data: %b\n\n" % json.dumps(chat_chunk("x")).encode(),
    "/v1/responses": b"event: response.output_text.delta\n"
    b'data: {"type":"response.output_text.delta","delta":"x"}\n\n',
    "/v1/messages": b"event: message_start\n"
    b'data: {"type":"message_start","message":{"id":"m","model":"native","usage":{}}}\n\n',
    "/v1/completions": b'data: {"choices":[{"index":0,"text":"x"}]}\n\n',
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Launched, RawServer]]:
    """A server and its upstream, whose requests a test answers itself."""
    folder = tmp_path_factory.mktemp("serve")
    with RawServer() as upstream, running(folder, settings(upstream)) as server:
        yield server, upstream
        assert server.end() == 0


@pytest.mark.parametrize(("path", "model", "stream"), CASES)
def test_disconnect_closes_upstream_connection(
    served: tuple[Launched, RawServer], path: str, model: str, stream: bool
) -> None:
    """Before the response, and in the middle of it."""
    server, upstream = served
    with server.connect() as client:
        send(client, path, model, stream)
        peer = upstream.call()
    peer.wait_until_left()
    with server.connect() as client:
        send(client, path, model, stream)
        peer = upstream.call()
        if stream:
            peer.head().body(FIRST_FRAMES[peer.request.path])
            assert client.read_head().status == 200
            client.read_frame()
        else:
            peer.head(kind="application/json", framing=100).body(b'{"x":')
    peer.wait_until_left()


def fail_streams(peer: Peer) -> None:
    if peer.request.json().get("stream"):
        peer.head().body(FIRST_FRAMES[peer.request.path])
        peer.cut()
    else:
        peer.json(REPLIES[peer.request.path])


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="needs Linux and Python 3.10")
def test_serves_every_api_while_log_pipe_is_full(command: Start) -> None:
    """Each request is answered, though failures are logged, and SIGTERM ends the process."""
    with RawServer(fail_streams) as upstream:
        server = command(ini=settings(upstream))
        fcntl.fcntl(server.process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        for _ in range(6):
            for path, model, stream in CASES:
                with server.connect() as client:
                    send(client, path, model, stream)
                    answer = client.read_answer()
                    failed = b"inside its answer" in answer.body
                    assert failed if stream else answer.status in (200, 502)
                    assert client.exchange("GET", path).status == 405
        server.signal(signal.SIGTERM)
        assert server.process.wait(2 * harness.DEADLINE) == 0


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
@pytest.mark.parametrize("loaded", [False, True])
def test_no_free_descriptor_returns_server_error(command: Start, loaded: bool) -> None:
    """The provider does not count as failing: it is called once a descriptor is free.

    If the API was not *loaded* before, its error format cannot be imported.
    """
    with RawServer(lambda peer: peer.json(REPLIES[peer.request.path])) as upstream:
        server = command(ini=settings(upstream))
        with ExitStack() as stack:
            client = stack.enter_context(server.connect())
            assert client.exchange("GET", "/healthz").status == 200
            if loaded:
                for path in BODIES:
                    assert client.exchange("POST", path, {}).status == 400
            limits = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
            folder = Path(f"/proc/{server.process.pid}/fd")
            used = {int(file.name) for file in folder.iterdir()}
            free = min(set(range(len(used) + 1)) - used)
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (free, limits[1]))
            for _ in range(6 if loaded else 1):  # so many failures would suspend a provider
                for path, model, stream in CASES:
                    send(client, path, model, stream)
                    answer = client.read_answer()
                    messages = path.startswith("/v1/messages")
                    assert answer.status == (529 if messages and loaded else 503), answer
                    assert b"descriptor" in answer.body
                    if answer.headers.get("connection") == "close":
                        client.close()
                        client = stack.enter_context(server.connect())
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, limits)
            for path, model, stream in CASES:
                if not stream:
                    send(client, path, model, stream)
                    assert client.read_answer().status == 200, path
        server.signal(signal.SIGTERM)
        assert server.finish() == 0
