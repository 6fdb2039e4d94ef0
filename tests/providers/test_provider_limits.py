"""Settings of limits and time-outs apply to every provider, as seen from a client's socket."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import harness
import pytest
from dialects import DIALECTS, READ, Dialect
from raw_server import Peer, RawServer

TRANSLATED = ("anthropic", "bedrock", "gemini", "ollama")
CHAT = "/v1/chat/completions"

#: Azure and xAI share the code for OpenAI; each of the others has its own.
ADAPTERS = ("openai", *TRANSLATED)
every_adapter = pytest.mark.parametrize(
    "dialect", [DIALECTS[type] for type in ADAPTERS], ids=ADAPTERS
)
#: For code that all adapters share: one that relays, one that translates.
either_way = pytest.mark.parametrize(
    "dialect", [DIALECTS[type] for type in ("openai", "bedrock")], ids=("openai", "bedrock")
)
translated = pytest.mark.parametrize(
    "dialect", [DIALECTS[type] for type in TRANSLATED], ids=TRANSLATED
)


def body_of(**more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hello"}]
    return {"model": "p/m", "messages": messages, "stream": True, **more}


@contextmanager
def serving(dialect: Dialect, url: str, **settings: str) -> Iterator[harness.Client]:
    """A connection to a server whose only provider speaks *dialect* at *url*."""
    section = {"type": dialect.type, **dialect.options(url)}
    app = harness.make_app(settings, sections={"provider p": section})
    try:
        with harness.Server(app) as server, server.connect() as client:
            yield client
    finally:
        app.close()


def last_error(client: harness.Client) -> dict[str, Any]:
    """Read the stream to its end; return the error in its last frame."""
    frames = [frame for frame in iter(client.read_frame, b"") if not frame.startswith(b":")]
    assert b"[DONE]" not in frames[-1]
    return dict(json.loads(frames[-1].removeprefix(b"data: "))["error"])


def begin(client: harness.Client, upstream: RawServer, dialect: Dialect) -> Peer:
    """Send a request; the upstream answers one word, which the client receives."""
    client.request("POST", CHAT, body_of())
    call = upstream.call()
    assert call.request.path == dialect.target
    call.head(kind=dialect.kind)
    call.body(dialect.start + dialect.text("one"))
    assert client.read_head().status == 200
    frames = [client.read_frame()]
    while b'"one"' not in frames[-1]:
        assert frames[-1], f"the answer has ended: {frames}"
        frames.append(client.read_frame())
    return call


@every_adapter
def test_rejects_an_event_over_max_event_bytes(dialect: Dialect) -> None:
    with (
        RawServer() as upstream,
        serving(dialect, upstream.url, max_event_bytes="4096") as client,
    ):
        call = begin(client, upstream, dialect)
        call.body(dialect.text("x" * 1000))
        assert b"x" * 1000 in client.read_frame()
        call.body(dialect.text("y" * 200_000)[:-100])  # the event has not ended
        assert last_error(client)["code"] == "upstream_invalid"
        assert call.is_left()


@pytest.mark.parametrize(
    ("type", "path", "body", "model"),
    [
        ("anthropic", "/v1/messages", {"messages": [{"role": "user", "content": "x"}]}, "m"),
        (
            "bedrock",
            "/v1/messages",
            {"messages": [{"role": "user", "content": "x"}]},
            "anthropic.m",
        ),
        ("openai", "/v1/responses", {"input": "x"}, "m"),
    ],
)
def test_rejects_a_forwarded_event_over_max_event_bytes(
    type: str, path: str, body: dict[str, Any], model: str
) -> None:
    dialect = DIALECTS[type]
    with RawServer() as upstream:
        options = dialect.options(upstream.url)
        if type == "openai":
            options["apis"] = "chat, responses"
        app = harness.make_app(
            {"max_event_bytes": "4096"}, {"provider p": {"type": type, **options}}
        )
        with harness.Server(app) as server, server.connect() as client:
            client.request(
                "POST", path, {"model": f"p/{model}", "stream": True, "max_tokens": 9, **body}
            )
            call = upstream.call()
            data = (
                dialect.text("y" * 200_000)
                if type == "bedrock"
                else b'event: x\ndata: {"type": "' + b"y" * 200_000
            )
            call.head(kind=dialect.kind).body(data[:-100])
            assert client.read_answer().status == 502
            assert call.is_left()
        app.close()


@every_adapter
def test_closes_a_silent_upstream_after_first_byte_timeout(dialect: Dialect) -> None:
    with (
        RawServer() as upstream,
        serving(dialect, upstream.url, first_byte_timeout="0.3") as client,
    ):
        client.request("POST", CHAT, body_of())
        call = upstream.call()
        answer = client.read_answer()
        assert (answer.status, answer.error["code"]) == (504, "provider_timeout")
        assert call.is_left()


@every_adapter
def test_closes_an_upstream_that_stalls_after_idle_timeout(dialect: Dialect) -> None:
    with (
        RawServer() as upstream,
        serving(dialect, upstream.url, idle_timeout="0.3") as client,
    ):
        call = begin(client, upstream, dialect)
        assert last_error(client)["code"] == "provider_timeout"
        assert call.is_left()


@every_adapter
def test_stops_connecting_after_connect_timeout(dialect: Dialect) -> None:
    """TCP accepts, TLS never answers: the handshake belongs to connecting."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with serving(dialect, url, connect_timeout="0.3", first_byte_timeout="60") as client:
            client.socket.settimeout(8)  # the default time-out is 10
            client.request("POST", CHAT, body_of())
            answer = client.read_answer()
        assert (answer.status, answer.error["code"]) == (504, "provider_timeout")


@either_way
def test_reads_an_endless_error_page_up_to_a_limit(dialect: Dialect) -> None:
    with RawServer() as upstream, serving(dialect, upstream.url) as client:
        client.request("POST", CHAT, body_of())
        call = upstream.call()
        call.head("500 Internal Server Error", "text/plain")
        answered = threading.Event()

        def send_on() -> None:
            try:
                while not answered.is_set():
                    call.body(b"error " * 10_000)
            except OSError:
                pass  # the connection was closed, as it should be

        sender = threading.Thread(target=send_on)
        sender.start()
        try:
            answer = client.read_answer()
        finally:
            answered.set()
            sender.join(harness.DEADLINE)
            call.cut()
        assert (answer.status, answer.error["type"]) == (502, "provider_error")
        assert len(answer.body) < 8192


@translated
def test_a_complete_answer_survives_a_broken_connection(
    dialect: Dialect,
) -> None:
    with RawServer() as upstream, serving(dialect, upstream.url) as client:
        call = begin(client, upstream, dialect)
        call.body(dialect.plain_ending)
        call.cut()
        frames = list(iter(client.read_frame, b""))
        assert frames[-1] == b"data: [DONE]\n\n"
        assert b'"finish_reason":"stop"' in frames[-2]


def test_logs_usage_when_the_client_leaves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Anthropic reports the input tokens at the start."""
    dialect = DIALECTS["anthropic"]
    caplog.set_level(logging.INFO, "choreo_wsgi")
    with RawServer() as upstream, serving(dialect, upstream.url) as client:
        call = begin(client, upstream, dialect)
        client.reset()
        assert call.is_left()
        harness.wait_until(
            lambda: any(f"tokens_in={READ} " in record.getMessage() for record in caplog.records),
            "the log line with the usage",
        )
