"""Tests of the tests' helpers."""

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


def test_server_answers_on_a_persistent_connection(serve: Callable[..., harness.Server]) -> None:
    with serve(hello).connect() as client:
        assert client.exchange("POST", "/", b"abc").body == b"abcPOST"
        assert client.exchange("HEAD", "/").body == b""
        assert client.exchange("GET", "/").body == b"GET"


def test_client_reads_frames_as_they_arrive(serve: Callable[..., harness.Server]) -> None:
    may_continue = threading.Event()

    def stream(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b'data: {"a":1}\n\n'
        assert may_continue.wait(harness.DEADLINE)
        yield b": ping\nda"
        yield b"ta: 2\n\n"

    with serve(stream).connect() as client:
        client.request("GET", "/")
        assert client.read_head().headers["transfer-encoding"] == "chunked"
        assert client.read_json() == {"a": 1}
        may_continue.set()
        assert client.read_frame() == b": ping\n"
        assert client.read_frame() == b"data: 2\n\n"
        assert client.read_frame() == b""


def test_missing_tool_skips_locally_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert harness.require_tool("sh", "dash").endswith("sh")
    monkeypatch.setenv("CI", "false")
    with pytest.raises(pytest.skip.Exception):
        harness.require_tool("no-such-tool", "none")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception):
        harness.require_tool("no-such-tool", "none")
