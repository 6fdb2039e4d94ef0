"""The tests' own tools do what they say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import harness
import pytest


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = environ["wsgi.input"].read() + environ["REQUEST_METHOD"].encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def test_a_server_answers_on_a_kept_connection(serve: Callable[..., harness.Server]) -> None:
    with serve(hello).connect() as client:
        assert client.exchange("POST", "/", b"abc").body == b"abcPOST"
        assert client.exchange("HEAD", "/").body == b""
        assert client.exchange("GET", "/").body == b"GET"


def test_frames_are_read_as_they_arrive(serve: Callable[..., harness.Server]) -> None:
    go = threading.Event()

    def stream(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b'data: {"a":1}\n\n'
        assert go.wait(harness.DEADLINE)
        yield b": ping\nda"
        yield b"ta: 2\n\n"

    with serve(stream).connect() as client:
        client.request("GET", "/")
        assert client.read_head().headers["transfer-encoding"] == "chunked"
        assert client.read_json() == {"a": 1}
        go.set()
        assert client.read_frame() == b": ping\n"
        assert client.read_frame() == b"data: 2\n\n"
        assert client.read_frame() == b""


def test_a_missing_tool_skips_and_fails_where_nothing_may_go_untested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert harness.require_tool("sh", "dash").endswith("sh")
    monkeypatch.setenv("CI", "false")
    with pytest.raises(pytest.skip.Exception):
        harness.require_tool("no-such-tool", "none")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception):
        harness.require_tool("no-such-tool", "none")
