"""Running streams and failed requests release the memory of the request, however large."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import pytest
from plain_apps import Running
from raw_server import Peer, RawServer, chunk, head
from scripted_provider import Script
from work import collected
from wsgi_calls import call, chat

from choreo_wsgi.app.pending import ClientGone
from choreo_wsgi.chat import answer as chat_answer
from choreo_wsgi.chat.normalise import Normaliser
from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.providers.failover import Failover
from choreo_wsgi.providers.openai.chunks import OpenAITranslator

SIZE = 6_000_000
EVENT = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{"role":"assistant","content":"%d"},"finish_reason":%b}]}\n\n'
)


@pytest.fixture
def more() -> Iterator[threading.Event]:
    """An event: the upstream may end its response."""
    event = threading.Event()
    yield event
    event.set()


def unnamed_files() -> int:
    """Return the number of open unnamed files, such as those of large bodies."""
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the folder itself
            count += "(deleted)" in str(descriptor.readlink())
    return count


def held() -> int:
    """Return the bytes allocated since tracing began and not freed, tests excluded."""
    gc.collect()
    ours = [
        tracemalloc.Filter(False, "*/tests/*"),
        tracemalloc.Filter(False, tracemalloc.__file__),
    ]
    return sum(one.size for one in tracemalloc.take_snapshot().filter_traces(ours).traces)


@pytest.mark.parametrize("resumable", [False, True])
@pytest.mark.parametrize("other", ["", "other"])
def test_request_is_released_once_the_stream_runs(
    upstream: Callable[..., RawServer], more: threading.Event, resumable: bool, other: str
) -> None:
    """Also when a second target is left for failover."""

    def answer(peer: Peer) -> None:
        peer.request.body = b""
        peer.send(head("200 OK", "text/event-stream", "Transfer-Encoding: chunked"))
        peer.send(chunk(EVENT % (1, b"null")))
        more.wait(harness.DEADLINE)
        peer.send(chunk(EVENT % (2, b'"stop"') + b"data: [DONE]\n\n") + chunk(b""))

    server = upstream(answer)
    up = {"type": "openai", "base_url": server.base_url, "api_key": "k", "models": "m"}
    sections = {"provider up": up}
    if other:
        sections["provider other"] = {**up, "priority": "1"}
    served = Running(
        harness.make_app({"listen": "127.0.0.1:0", "drain_seconds": "0"}, sections)  # type: ignore[arg-type]
    )
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x" * SIZE}]}
    headers = {"Content-Type": "application/json"}
    if resumable:
        headers["Choreo-Resumable"] = "1"
    sent = json.dumps(body).encode()
    before = unnamed_files()
    try:
        with served.connect() as client:
            tracemalloc.start()
            client.request("POST", "/v1/chat/completions", sent, headers)
            assert client.read_head().status == 200
            assert b'"1"' in client.read_frame()
            # Wait: the thread that sent the frame may still hold the request.
            harness.wait_until(lambda: held() < SIZE / 4, "the request is released")
            tracemalloc.stop()
            harness.wait_until(lambda: unnamed_files() == before, "its file is closed")
            more.set()
            assert b'"2"' in client.read_frame()
    finally:
        tracemalloc.stop()
        served.close()


def hang_up(peer: Peer) -> None:
    """Send no response."""
    peer.close()


def fail(peer: Peer) -> None:
    """Send an error response."""
    peer.send(head("500 Oops", "application/json", "Content-Length: 2") + b"{}")


def break_off(peer: Peer) -> None:
    """Send the first part of a response."""
    peer.send(head("200 OK", "text/event-stream", "Transfer-Encoding: chunked"))
    peer.send(chunk(EVENT % (1, b"null")))
    peer.close()


@pytest.mark.parametrize("failure", [ClientGone, RuntimeError("a bug")])
@pytest.mark.parametrize("stream", [False, True])
def test_requests_ended_by_disconnects_and_bugs_are_freed(
    scripted: Callable[[], Script], stream: bool, failure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest keeps log records, with their frames.
    monkeypatch.setattr(logging.getLogger("choreo_wsgi.app.application"), "disabled", True)
    # With a second target, for which the request is kept until the first has answered.
    scripts = {"type": "scripted", "models": "m"}
    app = harness.make_app({}, {"provider s": scripts, "provider t": scripts})
    left: Any = {"waitress.client_disconnected": lambda: failure is ClientGone}

    def requests() -> int:
        return sum(isinstance(one, ChatRequest) for one in gc.get_objects())

    with collected():
        before = requests()
        for _ in range(3):
            script = scripted()
            if failure is not ClientGone:
                script.say(failure)
            body = chat("x", model="m", stream=stream)
            assert call(app, "POST", "/v1/chat/completions", body, **left).status in (408, 500)
            del script
        assert requests() <= before
    app.close()


@pytest.mark.parametrize(
    ("answer", "stream"), [(hang_up, True), (fail, False), (break_off, True), (break_off, False)]
)
def test_failed_request_is_freed_without_the_collector(
    upstream: Callable[..., RawServer], answer: Callable[[Peer], None], stream: bool
) -> None:
    """Exceptions refer to their stack frames, and those to the request."""
    url = upstream(answer).base_url
    section = {"type": "openai", "base_url": url, "api_key": "k", "models": "m"}
    sections = {"provider up": section, "provider other": {**section, "priority": "1"}}
    app = harness.make_app({"listen": "127.0.0.1:0"}, sections)
    served = Running(app)
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "x"}]}

    def requests() -> int:
        return sum(isinstance(one, ChatRequest) for one in gc.get_objects())

    try:
        with collected():
            before = requests()
            for _ in range(3):
                with served.connect() as client:
                    client.exchange("POST", "/v1/chat/completions", body)
            # Wait: the thread that served the last one may still hold it.
            harness.wait_until(lambda: not app.active, "all have ended")
            harness.wait_until(lambda: requests() <= before, "the requests are released")
    finally:
        served.close()


@pytest.mark.parametrize(
    ("api", "stream", "logged"),
    [
        ("chat/completions", True, False),
        ("responses", False, False),
        ("messages", True, False),
        ("chat/completions", True, True),
        ("responses", False, True),
    ],
)
def test_answer_is_freed_without_the_collector(
    upstream: Callable[..., RawServer], api: str, stream: bool, logged: bool
) -> None:
    """The long text of an answer is freed with its reader and writer, also if it is *logged*."""
    function = {"name": "f", "arguments": json.dumps({"a": "x" * 300_000})}
    call = {"index": 0, "id": "c", "type": "function", "function": function}
    said = {"role": "assistant", "content": "y" * 300_000, "tool_calls": [call]}

    def answer(peer: Peer) -> None:
        peer.send(head("200 OK", "text/event-stream", "Transfer-Encoding: chunked"))
        for one, finish in ((said, None), ({}, "tool_calls")):
            choices = [{"index": 0, "delta": one, "finish_reason": finish}]
            peer.send(chunk(b"data: %b\n\n" % json.dumps({"choices": choices}).encode()))
        peer.send(chunk(b"data: [DONE]\n\n") + chunk(b""))

    section = {"type": "openai", "base_url": upstream(answer).base_url, "api_key": "k"}
    app = harness.make_app({"listen": "127.0.0.1:0"}, {"provider up": {**section, "models": "m"}})
    served = Running(app)
    asked = {"messages": [{"role": "user", "content": "x"}], "input": "x", "max_tokens": 9}
    body = {"model": "m", "stream": stream, **asked}
    if api != "responses":
        del body["input"]
    elif logged:
        body["store"] = True
    headers = {"Choreo-Resumable": "1"} if logged and stream else {}

    def kept() -> int:
        kinds = (chat_answer.Answer, Failover, Normaliser, OpenAITranslator)
        return sum(isinstance(one, kinds) for one in gc.get_objects())

    try:
        with collected():
            before = kept()
            for _ in range(3):
                with served.connect() as client:
                    answered = client.exchange("POST", f"/v1/{api}", body, headers)
                    assert len(answered.body) > 600_000
            harness.wait_until(lambda: not app.active, "all have ended")
            harness.wait_until(lambda: kept() <= before, "the answers are released")
    finally:
        served.close()
