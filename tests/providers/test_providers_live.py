"""Every provider over real sockets: streaming, failures, closing, n, routing by environment."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import harness
import openai
import pytest
from dialects import DIALECTS, KEY, READ, WRITTEN, Dialect
from raw_server import Peer, RawServer

TRANSLATED = ("anthropic", "bedrock", "gemini", "ollama")

every_provider = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
#: Azure and xAI share the code for OpenAI; each of the others has its own.
ADAPTERS = ("openai", *TRANSLATED)
every_adapter = pytest.mark.parametrize(
    "dialect", [DIALECTS[type] for type in ADAPTERS], ids=ADAPTERS
)


@contextmanager
def serving(
    dialect: Dialect, settings: dict[str, str] | None = None
) -> Iterator[tuple[harness.Server, RawServer]]:
    with RawServer() as upstream:
        section = {"type": dialect.type, **dialect.options(upstream.url)}
        app = harness.make_app(settings, sections={"provider p": section})
        try:
            with harness.Server(app) as server:
                yield server, upstream
        finally:
            app.close()


def body_of(**more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hello"}]
    return {"model": "p/m", "messages": messages, "stream": True, **more}


def begin(client: harness.Client, upstream: RawServer, **more: Any) -> Peer:
    client.request("POST", "/v1/chat/completions", body_of(**more))
    return upstream.call()


@every_provider
def test_forwards_each_piece_before_the_next_is_sent(dialect: Dialect) -> None:
    with serving(dialect) as (server, upstream), server.connect() as client:
        call = begin(client, upstream)
        assert call.request.path == dialect.target
        assert KEY in call.request.headers[dialect.key_header]
        call.head(kind=dialect.kind)
        call.body(dialect.start + dialect.text("one"))
        assert client.read_head().status == 200
        assert client.read_json()["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert client.read_json()["choices"][0]["delta"] == {"content": "one"}
        call.body(dialect.text("two"))
        assert client.read_json()["choices"][0]["delta"] == {"content": "two"}
        call.body(dialect.plain_ending)
        call.end()
        assert client.read_json()["choices"][0]["finish_reason"] == "stop"
        assert client.read_frame() == b"data: [DONE]\n\n"


def sdk_result(dialect: Dialect, stream: bool) -> Any:
    """Return the openai SDK's result for the common answer, without ids and model names."""
    with serving(dialect) as (server, upstream):
        client = openai.OpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0)
        with client:
            body = body_of(stream_options={"include_usage": True})
            body["stream"] = True
            if not stream:
                del body["stream"], body["stream_options"]
            results: list[Any] = []
            thread = started(lambda: results.append(collect(client, body, stream)))
            call = upstream.call()
            call.head(kind=dialect.kind)
            call.body(dialect.start + dialect.text("Hel"))
            call.body(dialect.text("lo"))
            call.body(dialect.call)
            call.body(dialect.ending)
            call.end()
            thread.join(harness.DEADLINE)
    return results[0]


def started(target: Any) -> Any:
    thread = threading.Thread(target=target)
    thread.start()
    return thread


def collect(client: openai.OpenAI, body: dict[str, Any], stream: bool) -> Any:
    if not stream:
        answer = client.chat.completions.create(**body)
        return without_names(answer.to_dict())
    return [without_names(chunk.to_dict()) for chunk in client.chat.completions.create(**body)]


def without_names(value: dict[str, Any]) -> dict[str, Any]:
    """Return *value* without the members that differ between providers."""
    for choice in value["choices"]:
        choice.pop("native_finish_reason", None)
    return {key: value[key] for key in value if key not in ("id", "created", "model")}


def test_the_same_answer_gives_the_same_stream_everywhere() -> None:
    streams = {type: sdk_result(dialect, stream=True) for type, dialect in DIALECTS.items()}
    expected = streams["openai"]
    assert [len(chunk["choices"]) for chunk in expected] == [1, 1, 1, 1, 1, 1, 0]
    assert expected[-1]["usage"]["total_tokens"] == READ + WRITTEN
    assert expected[-2]["choices"][0]["finish_reason"] == "tool_calls"
    for stream in streams.values():
        assert stream == expected


def test_the_same_answer_gives_the_same_translated_completion() -> None:
    folded = [sdk_result(DIALECTS[type], stream=False) for type in TRANSLATED]
    message = folded[0]["choices"][0]["message"]
    assert message["content"] == "Hello"
    assert message["tool_calls"][0]["function"]["arguments"] == '{"city":"Paris"}'
    assert folded[0]["usage"]["total_tokens"] == READ + WRITTEN
    for document in folded:
        assert document == folded[0]


@pytest.mark.parametrize("type", ["anthropic", "bedrock"])
def test_blank_stop_strings_are_applied_by_the_server(type: str) -> None:
    dialect = DIALECTS[type]
    with serving(dialect) as (server, upstream), server.connect() as client:
        client.request("POST", "/v1/chat/completions", body_of(stream=False, stop=["\n", "###"]))
        call = upstream.call()
        assert b"###" in call.request.body and b"\\n" not in call.request.body
        call.head(kind=dialect.kind)
        call.body(dialect.start + dialect.text("one\ntwo") + dialect.plain_ending)
        call.end()
        document = json.loads(client.read_answer().body)
        assert document["choices"][0]["message"]["content"] == "one"


@every_adapter
def test_a_cut_connection_is_upstream_truncated(dialect: Dialect) -> None:
    with serving(dialect) as (server, upstream), server.connect() as client:
        call = begin(client, upstream)
        call.head(kind=dialect.kind)
        call.body(dialect.start + dialect.text("one"))
        client.read_head()
        client.read_json()
        assert client.read_json()["choices"][0]["delta"] == {"content": "one"}
        call.cut()
        assert client.read_json()["error"]["code"] == "upstream_truncated"
        assert client.read_frame() == b""


@every_adapter
def test_hides_the_key_in_an_error_inside_the_answer(dialect: Dialect) -> None:
    with serving(dialect) as (server, upstream), server.connect() as client:
        call = begin(client, upstream)
        call.head(kind=dialect.kind)
        call.body(dialect.start + dialect.text("one"))
        call.body(dialect.error)
        call.end()
        client.read_head()
        client.read_json()
        client.read_json()
        error = client.read_json()["error"]
        assert error["message"] == "no, ***"
        assert client.read_frame() == b""


@every_adapter
def test_forwards_429_with_its_message_and_retry_after(dialect: Dialect) -> None:
    with serving(dialect) as (server, upstream), server.connect() as client:
        call = begin(client, upstream)
        call.head("429 Too Many Requests", "application/json", Retry_After="7")
        call.body(b'{"error":{"message":"slow down","type":"rate_limit_error"}}')
        call.end()
        answer = client.read_answer()
        assert answer.status == 429
        assert answer.headers["retry-after"] == "7"
        assert answer.error["message"] == "slow down"


@every_adapter
@pytest.mark.parametrize("when", ["before the head", "inside the answer"])
def test_closes_the_upstream_when_the_client_leaves(dialect: Dialect, when: str) -> None:
    with serving(dialect) as (server, upstream), server.connect() as client:
        call = begin(client, upstream)
        if when == "inside the answer":
            call.head(kind=dialect.kind)
            call.body(dialect.start + dialect.text("one"))
            client.read_head()
        client.reset()
        assert call.is_left()


@every_adapter
def test_reuses_the_upstream_connection(dialect: Dialect) -> None:
    with serving(dialect) as (server, upstream):
        for _ in range(2):
            with server.connect() as client:
                call = begin(client, upstream)
                assert call.number == 1
                call.head(kind=dialect.kind)
                call.body(dialect.start + dialect.text("one") + dialect.plain_ending)
                call.end()
                assert client.read_answer().body.endswith(b"data: [DONE]\n\n")


@every_adapter
def test_sends_pings_while_the_upstream_is_silent(dialect: Dialect) -> None:
    with (
        serving(dialect, {"heartbeat_seconds": "0.1"}) as (server, upstream),
        server.connect() as client,
    ):
        call = begin(client, upstream)
        client.read_head()
        assert client.read_frame() == b": ping\n"
        call.head(kind=dialect.kind)
        call.body(dialect.start + dialect.text("one"))
        while (frame := client.read_frame()) == b": ping\n":
            pass
        assert b'"role":"assistant"' in frame.replace(b": ", b":")
        call.cut()


@pytest.mark.parametrize("type", ["anthropic", "ollama"])
def test_n_becomes_parallel_requests(type: str) -> None:
    """The second is answered while the first is silent."""
    dialect = DIALECTS[type]
    with serving(dialect) as (server, upstream), server.connect() as client:
        first = begin(client, upstream, n=2, seed=7, stream_options={"include_usage": True})
        second = upstream.call()
        if type == "ollama":  # accepts a seed: a different one in each request
            bodies = [json.loads(call.request.body) for call in (first, second)]
            assert sorted(body["options"]["seed"] for body in bodies) == [7, 8]
        second.head(kind=dialect.kind)
        second.body(dialect.start + dialect.text("b"))
        client.read_head()
        index = client.read_json()["choices"][0]["index"]
        chunk = client.read_json()["choices"][0]
        assert (chunk["index"], chunk["delta"]) == (index, {"content": "b"})
        first.head(kind=dialect.kind)
        for call in (first, second):
            start = dialect.start if call is first else b""
            call.body(start + dialect.text("a") + dialect.plain_ending)
            call.end()
        chunks = []
        while (frame := client.read_frame()) != b"data: [DONE]\n\n":
            chunks.append(json.loads(frame[6:]))
        finishes = [
            choice["index"]
            for chunk in chunks
            for choice in chunk["choices"]
            if choice["finish_reason"] == "stop"
        ]
        assert sorted(finishes) == [0, 1]
        assert chunks[-1]["usage"]["prompt_tokens"] == 2 * READ
        assert chunks[-1]["usage"]["completion_tokens"] == 2 * WRITTEN


ENVIRONMENTS = [
    ("anthropic", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "claude-opus-5"),
    ("gemini", "GEMINI_API_KEY", "GEMINI_BASE_URL", "gemini-3-pro"),
    ("xai", "XAI_API_KEY", "XAI_BASE_URL", "grok-5"),
    ("ollama", "OLLAMA_API_KEY", "OLLAMA_BASE_URL", "ollama/llama3"),
    ("azure", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT", "azure/gpt"),
    ("bedrock", "AWS_BEARER_TOKEN_BEDROCK", "BEDROCK_BASE_URL", "bedrock/nova"),
]


@pytest.mark.parametrize(("type", "key", "address", "model"), ENVIRONMENTS)
def test_a_key_in_the_environment_routes_models_by_name(
    type: str, key: str, address: str, model: str
) -> None:
    """Without an ini file."""
    dialect = DIALECTS[type]
    with RawServer() as upstream:
        url = f"{upstream.url}/v1" if type == "xai" else upstream.url
        app = harness.make_app(environment={key: KEY, address: url})
        with harness.Server(app) as server, server.connect() as client:
            call = begin(client, upstream, model=model)
            assert KEY in call.request.headers[dialect.key_header]
            call.head(kind=dialect.kind)
            call.body(dialect.start + dialect.text("one") + dialect.plain_ending)
            call.end()
            answer = client.read_answer()
            assert answer.body.endswith(b"data: [DONE]\n\n")
            name = model.removeprefix(f"{type}/")
            assert answer.headers["choreo-provider"] == f"{type}/{name}"
        app.close()


def test_an_error_names_the_missing_key() -> None:
    app = harness.make_app(environment={"OPENAI_API_KEY": KEY})
    with harness.Server(app) as server, server.connect() as client:
        answer = client.exchange("POST", "/v1/chat/completions", body_of(model="bedrock/nova"))
        assert answer.status == 502
        assert answer.error["code"] == "provider_not_configured"
        assert "AWS_BEARER_TOKEN_BEDROCK" in answer.error["message"]
    app.close()


def test_rejects_unsupported_parameters_before_sending() -> None:
    with serving(DIALECTS["anthropic"]) as (server, _), server.connect() as client:
        answer = client.exchange("POST", "/v1/chat/completions", body_of(logit_bias={"5": 1}))
        assert answer.status == 400
        assert answer.error["param"] == "logit_bias"
