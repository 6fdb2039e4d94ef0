"""Requests are admitted or rejected when their head is complete, before the body."""

from __future__ import annotations

import errno
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import pytest
from plain_apps import Running
from waitress.receiver import FixedStreamReceiver

from choreo_wsgi.app.application import Application

LENGTH = 8_000_000
SECOND = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\n\r\n"


@pytest.fixture
def served() -> Iterator[Callable[..., Running]]:
    """``served(**settings)``: the application under our own server."""
    running: list[Running] = []

    def start(**settings: str) -> Running:
        app = harness.make_app({"listen": "127.0.0.1:0", "drain_seconds": "0", **settings})
        running.append(Running(app))  # type: ignore[arg-type]
        return running[-1]

    yield start
    for one in running:
        one.close()


def head(*fields: str, length: int = LENGTH) -> bytes:
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        *fields,
        *([f"Content-Length: {length}"] if length else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("fields", "code", "sent"),
    [
        ((), "missing_authorization", b""),
        ((), "missing_authorization", b"x" * 100_000),
        (("Authorization: Bearer x",), "invalid_api_key", b'{"model":'),
        (("Expect: 100-continue",), "missing_authorization", b""),
    ],
)
def test_rejects_unauthorized_request_before_body(
    served: Callable[..., Running], fields: tuple[str, ...], code: str, sent: bytes
) -> None:
    server = served(api_keys="k")
    with server.connect() as client:
        client.send(head(*fields) + sent)
        answer = client.read_answer()
        assert (answer.status, answer.error["code"]) == (401, code)
        assert answer.headers["connection"] == "close"
        assert client.at_end()


def test_rejected_client_may_keep_sending(served: Callable[..., Running]) -> None:
    """Otherwise bytes in flight would reset the connection before the client reads the error."""
    server = served(api_keys="k")
    with server.connect() as client:
        client.send(head())
        assert client.read_answer().status == 401
        assert client.at_end()
        for _ in range(3):
            client.send(b"x" * 1000)


def test_rejected_body_is_not_parsed_as_a_request(served: Callable[..., Running]) -> None:
    """The body contains a request; it arrives with the head, or later."""
    server = served(api_keys="k")
    for together in (True, False):
        with server.connect() as client:
            client.send(head() + (SECOND if together else b""))
            if not together:
                client.send(SECOND)
            assert client.read_answer().status == 401
            assert client.at_end()


def test_rejects_unauthorized_chunked_request_before_body(served: Callable[..., Running]) -> None:
    server = served(api_keys="k")
    with server.connect() as client:
        client.send(head("Transfer-Encoding: chunked", length=0) + b'5\r\n{"a":')
        assert client.read_answer().status == 401
        assert client.at_end()


def test_early_rejection_has_cors_fields(served: Callable[..., Running]) -> None:
    server = served(api_keys="k")
    with server.connect() as client:
        client.send(head("Origin: https://example.com"))
        assert client.read_answer().headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Host: localhost", b"Host: example.com"),
        (b"HTTP/1.1", b"HTTP/1.0\r\nConnection: close"),  # nginx's default
    ],
)
def test_without_keys_rejects_foreign_host_before_body(
    served: Callable[..., Running], old: bytes, new: bytes
) -> None:
    server = served()
    with server.connect() as client:
        client.send(head().replace(old, new))
        answer = client.read_answer()
    assert (answer.status, answer.error["code"]) == (403, "host_not_allowed")


def test_admitted_request_gets_100_continue(served: Callable[..., Running]) -> None:
    server = served(api_keys="k")
    body = b'{"model":"echo","messages":[{"role":"user","content":"hi"}]}'
    fields = ("Authorization: Bearer k", "Expect: 100-continue")
    with server.connect() as client:
        for _ in range(2):
            client.send(head(*fields, length=len(body)))
            assert client.read_head().status == 100
            client.send(body)
            assert client.read_answer().status == 200


def test_small_body_is_rejected_without_100_continue(served: Callable[..., Running]) -> None:
    with served(api_keys="k").connect() as client:
        client.send(head("Expect: 100-continue", length=100))
        assert client.read_head().status == 401


def test_checks_key_once_per_request(served: Callable[..., Running]) -> None:
    """However many pieces its body arrives in."""
    server = served(api_keys="k")
    application: Any = server.app
    calls = []
    real = Application.admit

    def admit(environ: dict[str, Any]) -> None:
        calls.append(threading.get_ident())
        real(application, environ)

    application.admit = admit
    body = b'{"model":"echo","messages":[{"role":"user","content":"' + b"x" * 3_000_000 + b'"}]}'
    with server.connect() as client:
        client.send(head("Authorization: Bearer k", length=len(body)))
        for at in range(0, len(body), 500_000):
            client.send(body[at : at + 500_000])
        assert client.read_answer().status == 200
    assert len(calls) == 1


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
def test_full_temporary_folder_returns_507(
    command: Callable[..., Any],
) -> None:
    """The process continues: the next request, which is small, is answered."""
    server = command("--default-model", "echo")
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    large = {"model": "echo", "messages": [{"role": "user", "content": "x" * 3_000_000}]}
    with server.connect() as client:
        client.request("POST", "/v1/chat/completions", large)
        answer = client.read_answer()
        assert (answer.status, answer.error["code"]) == (507, "insufficient_storage")
        assert client.at_end()
    small = {"model": "echo", "messages": [{"role": "user", "content": "x"}]}
    with server.connect() as client:
        client.request("POST", "/v1/chat/completions", small)
        assert client.read_answer().status == 200


def test_full_temporary_folder_returns_507_though_body_cannot_be_read(
    served: Callable[..., Running],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A buffered file that could not be written fails to be read or closed, too."""

    def fail(*_: Any) -> None:
        for name in ("getbuf", "getfile"):
            monkeypatch.setattr(FixedStreamReceiver, name, fail)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FixedStreamReceiver, "received", fail)
    with served(default_model="echo").connect() as client:
        client.request("POST", "/v1/chat/completions", b"x" * 100_000)
        answer = client.read_answer()
    assert "body cannot be stored: [Errno 28] No space left" in caplog.text
    assert (answer.status, answer.error["code"]) == (507, "insufficient_storage")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
def test_no_descriptor_for_body_returns_503(
    command: Callable[..., Any],
) -> None:
    server = command("--default-model", "echo")
    process = server.process.pid
    large = {"model": "echo", "messages": [{"role": "user", "content": "x" * 3_000_000}]}
    with server.connect() as client:
        assert client.exchange("GET", "/healthz").status == 200
        held = len(list(Path(f"/proc/{process}/fd").iterdir()))
        resource.prlimit(process, resource.RLIMIT_NOFILE, (held, held))
        client.request("POST", "/v1/chat/completions", large)
        answer = client.read_answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "file descriptor" in answer.error["message"]
