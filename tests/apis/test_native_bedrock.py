"""Messages to Claude on Bedrock: its events are read from AWS's binary framing and forwarded."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import unquote

import anthropic
import aws_events
import harness
import pytest
from raw_server import RawServer

from choreo_wsgi.app.application import Application

MODEL = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
KIND = "application/vnd.amazon.eventstream"
HEAD = "HTTP/1.1 {}\r\nContent-Type: {}\r\nConnection: close\r\n{}\r\n"
USAGE = {"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 1}
MESSAGE = {"id": "msg_up", "type": "message", "role": "assistant", "model": "claude", "content": [],
           "stop_reason": None, "stop_sequence": None, "usage": USAGE}  # fmt: skip
SEARCH = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": MESSAGE},
    {"type": "content_block_start", "index": 0, "content_block": SEARCH},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "One "}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "two"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
     "usage": {"output_tokens": 5}},
    {"type": "message_stop", "amazon-bedrock-invocationMetrics": {"outputTokenCount": 5}},
]  # fmt: skip
REQUEST: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 99,
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
    "messages": [{"role": "user", "content": "hi"}],
    "extra_headers": {"anthropic-beta": "context-1m-2025-08-07,x"},
}


def chunk(event: dict[str, Any]) -> bytes:
    payload = json.dumps({"bytes": b64encode(json.dumps(event).encode()).decode(), "p": "abc"})
    headers = {":message-type": "event", ":event-type": "chunk", ":content-type": KIND}
    return aws_events.encode(headers, payload.encode())


def exception(name: str, message: str) -> bytes:
    headers = {":message-type": "exception", ":exception-type": name}
    return aws_events.encode(headers, json.dumps({"message": message}).encode())


def streamed(*messages: bytes) -> bytes:
    return HEAD.format("200 OK", KIND, "").encode() + b"".join(messages)


class Site:
    """Our server, a Bedrock that plays *answer*, and Anthropic's SDK as the client."""

    def __init__(self, stack: ExitStack, application: Any, serve: Any, **options: str) -> None:
        self.answer = b""
        self.upstream = stack.enter_context(RawServer.playing(lambda request: self.answer))
        section = {"type": "bedrock", "models": "alias = " + MODEL + ", *", "region": "eu-west-1"}
        app = application({"up": {**section, "base_url": self.upstream.url, **options}})
        url = serve(app).url
        self.client = stack.enter_context(
            anthropic.Anthropic(base_url=url, api_key="k", max_retries=0)
        )


@pytest.fixture
def site(
    application: Callable[..., Application], serve: Callable[..., harness.Server]
) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack, application, serve, api_key="bedrock-key")


def test_claudes_events_are_forwarded(site: Site) -> None:
    site.answer = streamed(*map(chunk, EVENTS))
    with site.client.messages.stream(**{**REQUEST, "model": "alias"}) as stream:
        message: Any = stream.get_final_message()
    assert [block.type for block in message.content] == ["server_tool_use", "text"]
    assert (message.content[1].text, message.stop_reason) == ("One two", "end_turn")
    assert (message.model, message.usage.cache_read_input_tokens) == ("alias", 4)


@pytest.mark.parametrize("stream", [True, False])
def test_request_equals_that_of_anthropics_bedrock_client(site: Site, stream: bool) -> None:
    site.answer = (
        streamed(*map(chunk, EVENTS))
        if stream
        else HEAD.format("200 OK", "application/json", "").encode() + json.dumps(MESSAGE).encode()
    )
    theirs = anthropic.AnthropicBedrock(
        aws_access_key="AKID", aws_secret_key="s", aws_region="eu-west-1",
        base_url=site.upstream.url, max_retries=0,
    )  # fmt: skip
    for client in (theirs, site.client):
        answer = client.messages.create(**REQUEST, stream=stream)
        if stream:
            list(answer)  # type: ignore[call-overload]
    theirs.close()
    one, two = site.upstream.requests
    assert unquote(one.path) == unquote(two.path)
    version = {"anthropic_version": "bedrock-2023-05-31"}  # the only one that AWS documents
    assert json.loads(one.body) | version == json.loads(two.body)
    assert two.headers["Authorization"] == "Bearer bedrock-key"


def test_requests_without_an_api_key_are_signed(
    application: Callable[..., Application],
    serve: Callable[..., harness.Server],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with ExitStack() as stack:
        site = Site(stack, application, serve)
        site.answer = streamed(*map(chunk, EVENTS))
        assert len(list(site.client.messages.create(**REQUEST, stream=True))) == len(EVENTS)
        assert site.upstream.requests[0].headers["Authorization"].startswith("AWS4-HMAC-SHA256 ")


def test_truncated_stream_raises_an_error(site: Site) -> None:
    """A cut at any byte before the last event raises an error."""
    body = b"".join(map(chunk, EVENTS))
    end = len(body) - len(chunk(EVENTS[-1]))  # all but the last event is the whole message
    for cut in range(0, len(body), 97):
        site.answer = streamed(body[:cut])
        members = {**REQUEST, "model": f"anthropic.m{cut}"}
        if cut > end:
            continue
        with (
            pytest.raises(anthropic.APIError),
            site.client.messages.stream(**members) as stream,
        ):
            stream.get_final_message()


def test_exception_is_raised_after_the_received_text(site: Site) -> None:
    site.answer = streamed(*map(chunk, EVENTS[:6]), exception("throttlingException", "slow down"))
    received = ""
    with (
        pytest.raises(anthropic.APIError, match="slow down") as raised,
        site.client.messages.stream(**REQUEST) as stream,
    ):
        for text in stream.text_stream:
            received += text
    assert received == "One two"
    assert raised.value.body["error"]["type"] == "rate_limit_error"  # type: ignore[index,call-overload]


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [("ThrottlingException", 429, "rate_limit_error"),
     ("ValidationException", 400, "invalid_request_error"),
     ("ServiceUnavailableException", 529, "overloaded_error")],
)  # fmt: skip
def test_error_type_sets_the_status(site: Site, name: str, status: int, kind: str) -> None:
    head = HEAD.format("400 Bad", "application/json", f"x-amzn-errortype: {name}:http://x\r\n")
    site.answer = head.encode() + b'{"message":"no"}'
    with pytest.raises(anthropic.APIStatusError) as raised:
        site.client.messages.create(**REQUEST, stream=True)
    assert raised.value.status_code == status
    assert raised.value.body["error"]["type"] == kind  # type: ignore[index,call-overload]


def test_other_models_use_converse(site: Site) -> None:
    events = [("messageStart", {"role": "assistant"}),
              ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "hi"}}),
              ("messageStop", {"stopReason": "end_turn"})]  # fmt: skip
    site.answer = streamed(
        *(aws_events.encode({":message-type": "event", ":event-type": name},
                            json.dumps(body).encode()) for name, body in events)
    )  # fmt: skip
    message: Any = site.client.messages.create(**{**REQUEST, "model": "amazon.nova-pro-v1:0"})
    assert message.content[0].text == "hi"
    assert site.upstream.requests[0].path.endswith("/converse-stream")
