"""The requests of ``choreo-wsgi check`` to the echo, over a socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import harness
import pytest

from choreo_wsgi.apis.chat import CompletionWriter, Identity
from choreo_wsgi.app.application import Application
from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.chat.source import Source
from choreo_wsgi.errors import RateLimited
from choreo_wsgi.providers.echo import Echo
from choreo_wsgi.settings import Settings

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


def echo_source(text: Any, options: dict[str, str] | None = None, **more: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return Echo("echo", options or {}, Settings()).open(ChatRequest("m", messages, {}, **more))


def test_only_streams_have_the_delay() -> None:
    source = echo_source("one two", {"delay_ms": "60000"})
    assert [item.text for item in source.receive(0)] == ["one "]
    assert echo_source("one two", {"delay_ms": "60000"}, stream=True).receive(0) == []


def test_no_tokens_of_an_empty_text_are_cut() -> None:
    assert echo_source("", max_tokens=0).receive(0)[0].reason == "length"
    assert echo_source("").receive(0)[0].reason == "stop"


def test_the_end_follows_the_last_piece_at_once() -> None:
    source = echo_source("one", {"delay_ms": "0.1"}, stream=True)
    assert [item.text for item in source.receive(10)] == ["one"]
    assert source.due == 0.0


def test_counts_the_words_of_text_parts() -> None:
    parts = [{"type": "text", "text": "one two"}, {"type": "text", "text": "three"}]
    assert echo_source(parts).usage.prompt_tokens == 3


class Refusing(Echo):
    """Opens one source; further ones are refused."""

    opened: Any = None

    def open(self, request: ChatRequest) -> Source:
        if self.opened is not None:
            raise RateLimited("slower")
        self.opened = super().open(request)
        return self.opened


def test_a_choice_that_cannot_be_opened_closes_the_others() -> None:
    provider = Refusing("echo", {}, Settings())
    request = ChatRequest("m", [{"role": "user", "content": "hi"}], {}, n=2)
    with pytest.raises(RateLimited):
        provider.answer(request, CompletionWriter(Identity("m"), 2))
    assert provider.opened.ended


def test_returns_choreo_saw_only_on_request(serve: Serve, application: Make) -> None:
    with serve(application(heartbeat_seconds="2.5")).connect() as client:
        client.request("GET", "/healthz", headers={"Choreo-Check": "1"})
        assert client.read_answer().headers["choreo-saw"] == "HTTP/1.1; direct; heartbeat=2.5"
        client.request("GET", "/healthz")
        assert "choreo-saw" not in client.read_answer().headers
