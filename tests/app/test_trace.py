"""The request id and the trace context are forwarded to the provider."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from harness import make_app
from raw_server import RawServer
from wsgi_calls import call, chat

from choreo_wsgi.app.application import Application
from choreo_wsgi.chat.items import Delta, Finish
from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.chat.source import Source, from_deltas
from choreo_wsgi.providers.base import Provider

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def upstream() -> Iterator[RawServer]:
    with RawServer() as one:
        yield one


def sent_headers(
    upstream: RawServer, path: str = "chat/completions", **more: str
) -> tuple[dict[str, str], str]:
    """Return the headers received by the provider, in lower case, and our request id."""
    type = "anthropic" if path == "messages" else "openai"
    options = {"type": type, "models": "m", "api_key": "k", "base_url": upstream.url}
    app: Application = make_app({}, {"provider p": options})
    answers: list[Any] = []
    thread = threading.Thread(
        target=lambda: answers.append(call(app, "POST", f"/v1/{path}", BODIES[path], **more))
    )
    thread.start()
    one = upstream.call()
    one.head("401 Unauthorized", "application/json")
    one.body(b'{"error": {"message": "wrong key"}}')
    one.end()
    thread.join()
    app.close()
    headers = {name.lower(): value for name, value in one.request.headers.items()}
    return headers, answers[0].headers["x-request-id"]


BODIES: dict[str, Any] = {
    "chat/completions": chat("x", model="m", stream=True),
    "responses": {"model": "m", "input": "x", "store": True},
    "messages": chat("x", model="m", max_tokens=9),
}


def test_request_that_continues_a_stored_response_is_traced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app: Any = make_app({}, {"provider p": {"type": "echo", "models": "m"}})
    (target,) = app.router.targets("m")
    traces: list[Any] = []

    def opened(provider: Provider, request: ChatRequest) -> Source:
        traces.append(dict(request.trace))
        return from_deltas([Delta("ok"), Finish()])

    monkeypatch.setattr(type(target.provider), "open", opened)
    first = call(app, "POST", "/v1/responses", BODIES["responses"])
    second = {**BODIES["responses"], "previous_response_id": first.json()["id"]}
    assert call(app, "POST", "/v1/responses", second, HTTP_X_REQUEST_ID="x-1").status == 200
    app.close()
    assert {name.lower(): value for name, value in traces[-1].items()}["x-request-id"] == "x-1"


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
@pytest.mark.parametrize("parent", [PARENT, f"01{PARENT[2:]}-of-a-later-version"])
def test_request_id_and_trace_context_are_forwarded(
    upstream: RawServer, path: str, parent: str
) -> None:
    more = {"HTTP_TRACEPARENT": parent, "HTTP_TRACESTATE": "a=b,c=d", "HTTP_X_REQUEST_ID": "x-1"}
    headers, id = sent_headers(upstream, path, **more)
    assert headers["x-request-id"] == id == "x-1"
    assert (headers["traceparent"], headers["tracestate"]) == (parent, "a=b,c=d")


@pytest.mark.parametrize("parent", ["", PARENT.upper(), PARENT + "\r\nx: y"])
def test_invalid_trace_context_is_not_forwarded(upstream: RawServer, parent: str) -> None:
    more = {"HTTP_TRACEPARENT": parent, "HTTP_TRACESTATE": "a=b"}
    headers, id = sent_headers(upstream, **more)
    assert headers["x-request-id"] == id and id.startswith("req_")
    assert not {"traceparent", "tracestate", "x"} & headers.keys()


@pytest.mark.parametrize("state", ["a=\u00e9", "a=" + "x" * 511])
def test_invalid_tracestate_is_not_forwarded(upstream: RawServer, state: str) -> None:
    more = {"HTTP_TRACEPARENT": PARENT, "HTTP_TRACESTATE": state}
    headers, _ = sent_headers(upstream, **more)
    assert headers["traceparent"] == PARENT and "tracestate" not in headers


def test_anthropic_headers_are_forwarded_if_they_are_ascii(upstream: RawServer) -> None:
    more = {"HTTP_ANTHROPIC_VERSION": "2023-01-01", "HTTP_ANTHROPIC_BETA": "b\u00e9ta"}
    headers, _ = sent_headers(upstream, "messages", **more)
    assert headers["anthropic-version"] == "2023-01-01" and "anthropic-beta" not in headers
