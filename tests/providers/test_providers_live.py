"""Every provider behind real sockets: arrival, failures, leaving, n, routing by environment."""

from __future__ import annotations

import json
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
#: Azure and xAI are asked and read by the code for OpenAI, all others by their own.
ADAPTERS = ("openai", *TRANSLATED)
every_adapter = pytest.mark.parametrize(
    "dialect", [DIALECTS[type] for type in ADAPTERS], ids=ADAPTERS
)
#: What is one code for all adapters: one that relays, one that translates.
either_way = pytest.mark.parametrize(
    "dialect", [DIALECTS[type] for type in ("openai", "bedrock")], ids=("openai", "bedrock")
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


def asked(**more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hello"}]
    return {"model": "p/m", "messages": messages, "stream": True, **more}


def begin(client: harness.Client, upstream: RawServer, **more: Any) -> Peer:
    client.request("POST", "/v1/chat/completions", asked(**more))
    return upstream.call()


@every_provider
def test_each_piece_arrives_before_the_next_is_sent(dialect: Dialect) -> None:
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


def events_seen(dialect: Dialect, stream: bool) -> Any:
    """Return what the openai SDK makes of the common answer; ids and names of models apart."""
    with serving(dialect) as (server, upstream):
        client = openai.OpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0)
        with client:
            body = asked(stream_options={"include_usage": True})
            body["stream"] = True
            if not stream:
                del body["stream"], body["stream_options"]
            seen: list[Any] = []
            thread = harness_thread(lambda: seen.append(collect(client, body, stream)))
            call = upstream.call()
            call.head(kind=dialect.kind)
            call.body(dialect.start + dialect.text("Hel"))
            call.body(dialect.text("lo"))
            call.body(dialect.call)
            call.body(dialect.ending)
            call.end()
            thread.join(harness.DEADLINE)
    return seen[0]


def harness_thread(target: Any) -> Any:
    import threading

    thread = threading.Thread(target=target)
    thread.start()
    return thread


def collect(client: openai.OpenAI, body: dict[str, Any], stream: bool) -> Any:
    if not stream:
        answer = client.chat.completions.create(**body)
        return without_names(answer.to_dict())
    return [without_names(chunk.to_dict()) for chunk in client.chat.completions.create(**body)]


def without_names(value: dict[str, Any]) -> dict[str, Any]:
    """Return *value* without what is each provider's own."""
    for choice in value["choices"]:
        choice.pop("native_finish_reason", None)
    return {key: value[key] for key in value if key not in ("id", "created", "model")}


def test_the_same_answer_is_the_same_stream_from_every_provider() -> None:
    streams = {type: events_seen(dialect, stream=True) for type, dialect in DIALECTS.items()}
    expected = streams["openai"]
    assert [len(chunk["choices"]) for chunk in expected] == [1, 1, 1, 1, 1, 1, 0]
    assert expected[-1]["usage"]["total_tokens"] == READ + WRITTEN
    assert expected[-2]["choices"][0]["finish_reason"] == "tool_calls"
    for stream in streams.values():
        assert stream == expected


def test_the_same_answer_is_the_same_completion_from_every_translation() -> None:
    folded = [events_seen(DIALECTS[type], stream=False) for type in TRANSLATED]
    message = folded[0]["choices"][0]["message"]
    assert message["content"] == "Hello"
    assert message["tool_calls"][0]["function"]["arguments"] == '{"city":"Paris"}'
    assert folded[0]["usage"]["total_tokens"] == READ + WRITTEN
    for document in folded:
        assert document == folded[0]


@pytest.mark.parametrize("type", ["anthropic", "bedrock"])
def test_a_blank_stop_string_is_looked_for_here(type: str) -> None:
    dialect = DIALECTS[type]
    with serving(dialect) as (server, upstream), server.connect() as client:
        client.request("POST", "/v1/chat/completions", asked(stream=False, stop=["\n", "###"]))
        call = upstream.call()
        assert b"###" in call.request.body and b"\\n" not in call.request.body
        call.head(kind=dialect.kind)
        call.body(dialect.start + dialect.text("one\ntwo") + dialect.plain_ending)
        call.end()
        document = json.loads(client.read_answer().body)
        assert document["choices"][0]["message"]["content"] == "one"


@every_adapter
def test_a_provider_that_breaks_off_is_an_error(dialect: Dialect) -> None:
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
def test_an_error_inside_the_answer_hides_the_key(dialect: Dialect) -> None:
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
def test_a_refusal_keeps_its_meaning(dialect: Dialect) -> None:
    with serving(dialect) as (server, upstream), server.connect() as client:
        call = begin(client, upstream)
        call.head("429 Too Many Requests", "application/json", Retry_After="7")
        call.body(b'{"error":{"message":"slow down","type":"rate_limit_error"}}')
        call.end()
        answer = client.read_answer()
        assert answer.status == 429
        assert answer.headers["retry-after"] == "7"
        assert answer.error["message"] == "slow down"


@either_way
@pytest.mark.parametrize("when", ["before the head", "inside the answer"])
def test_a_client_that_leaves_frees_the_provider(dialect: Dialect, when: str) -> None:
    with serving(dialect) as (server, upstream), server.connect() as client:
        call = begin(client, upstream)
        if when == "inside the answer":
            call.head(kind=dialect.kind)
            call.body(dialect.start + dialect.text("one"))
            client.read_head()
        client.reset()
        assert call.is_left()


@every_adapter
def test_the_connection_is_used_again(dialect: Dialect) -> None:
    with serving(dialect) as (server, upstream):
        for _ in range(2):
            with server.connect() as client:
                call = begin(client, upstream)
                assert call.number == 1
                call.head(kind=dialect.kind)
                call.body(dialect.start + dialect.text("one") + dialect.plain_ending)
                call.end()
                assert client.read_answer().body.endswith(b"data: [DONE]\n\n")


@either_way
def test_silence_is_filled_with_pings(dialect: Dialect) -> None:
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
def test_n_without_an_n_of_its_own(type: str) -> None:
    """That many requests at once: the second speaks while the first is silent."""
    dialect = DIALECTS[type]
    with serving(dialect) as (server, upstream), server.connect() as client:
        first = begin(client, upstream, n=2, seed=7, stream_options={"include_usage": True})
        second = upstream.call()
        if type == "ollama":  # which takes a seed: another one for each
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
def test_models_go_by_their_names(type: str, key: str, address: str, model: str) -> None:
    """With a key in the environment and no ini file."""
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


def test_a_missing_key_is_named() -> None:
    app = harness.make_app(environment={"OPENAI_API_KEY": KEY})
    with harness.Server(app) as server, server.connect() as client:
        answer = client.exchange("POST", "/v1/chat/completions", asked(model="bedrock/nova"))
        assert answer.status == 502
        assert answer.error["code"] == "provider_not_configured"
        assert "AWS_BEARER_TOKEN_BEDROCK" in answer.error["message"]
    app.close()


def test_what_a_provider_cannot_do_is_refused_before_anything_is_sent() -> None:
    with serving(DIALECTS["anthropic"]) as (server, _), server.connect() as client:
        answer = client.exchange("POST", "/v1/chat/completions", asked(logit_bias={"5": 1}))
        assert answer.status == 400
        assert answer.error["param"] == "logit_bias"
