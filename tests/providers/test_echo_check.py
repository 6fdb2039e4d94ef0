"""The requests of ``choreo-wsgi check`` to the echo, over a socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import harness
import pytest

from choreo_wsgi.app.application import Application

Serve = Callable[..., harness.Server]
Make = Callable[..., Application]


def post_check(client: harness.Client, text: str, check: Any, **more: Any) -> None:
    messages = [{"role": "user", "content": text}]
    body = {"model": "echo", "messages": messages, "choreo_check": check, **more}
    client.request("POST", "/v1/chat/completions", body)


def test_a_check_is_running_until_its_client_leaves(serve: Serve, application: Make) -> None:
    server = serve(application())

    def state(id: str) -> str:
        with server.connect() as client:
            post_check(client, "any", {"about": id})
            return str(client.read_answer().json()["choices"][0]["message"]["content"])

    assert state("mine") == "unknown"
    client = server.connect()
    post_check(client, "one two", {"delay_ms": 60_000, "id": "mine"}, stream=True)
    harness.wait_until(lambda: state("mine") == "running", "the check is running")
    client.close()
    harness.wait_until(lambda: state("mine") == "gone", "the check has ended")


def test_remembers_only_the_last_256_checks(serve: Serve, application: Make) -> None:
    with serve(application()).connect() as client:
        for number in range(257):
            post_check(client, "any", {"id": str(number)})
            assert client.read_answer().status == 200
        for id, state in (("0", "unknown"), ("1", "gone"), ("256", "gone")):
            post_check(client, "any", {"about": id})
            assert client.read_answer().json()["choices"][0]["message"]["content"] == state


@pytest.mark.parametrize(
    "check",
    [
        None,
        {"delay": 1},
        {"delay_ms": -1},
        {"delay_ms": 600_001},
        {"delay_ms": True},
        {"delay_ms": "1"},
        {"id": 1},
        {"id": "x" * 65},
        {"about": None},
    ],
)
def test_rejects_an_invalid_check(serve: Serve, application: Make, check: Any) -> None:
    with serve(application()).connect() as client:
        post_check(client, "any", check)
        answer = client.read_answer()
    assert (answer.status, answer.error["param"]) == (400, "choreo_check")


def test_returns_choreo_saw_only_on_request(serve: Serve, application: Make) -> None:
    with serve(application(heartbeat_seconds="2.5")).connect() as client:
        client.request("GET", "/healthz", headers={"Choreo-Check": "1"})
        assert client.read_answer().headers["choreo-saw"] == "HTTP/1.1; direct; heartbeat=2.5"
        client.request("GET", "/healthz")
        assert "choreo-saw" not in client.read_answer().headers
