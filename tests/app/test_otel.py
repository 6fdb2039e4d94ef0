"""Spans of the GenAI semantic conventions, between those of the caller and the provider."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from harness import make_app
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from wsgi_calls import call, chat

from choreo_wsgi.app.account import Account
from choreo_wsgi.app.otel import Spans

CHAT = "/v1/chat/completions"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """Collects the spans of this process, which can set its tracer only once."""
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    trace.set_tracer_provider(provider)
    return kept


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    exporter.clear()
    yield exporter


def only(spans: InMemorySpanExporter) -> Any:
    (span,) = spans.get_finished_spans()
    return span


@pytest.mark.parametrize("metrics", ["on", "off"])
def test_stream_produces_a_genai_span(spans: InMemorySpanExporter, metrics: str) -> None:
    app = make_app({"otel": "on", "metrics": metrics})
    call(app, "POST", CHAT, chat("one two", stream=True, max_tokens=1), HTTP_TRACEPARENT=PARENT)
    span = only(spans)
    assert (span.name, span.kind.name) == ("chat echo", "SERVER")
    assert f"{span.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]
    attributes = span.attributes
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.provider.name"] == "echo"
    assert attributes["gen_ai.request.model"] == attributes["gen_ai.response.model"] == "echo"
    assert attributes["gen_ai.usage.input_tokens"] == 2
    assert attributes["gen_ai.usage.output_tokens"] == 1
    assert attributes["gen_ai.response.time_to_first_chunk"] >= 0
    assert (attributes["http.request.method"], attributes["url.path"]) == ("POST", CHAT)
    assert (
        attributes["http.response.status_code"] == 200
        and attributes["choreo.outcome"] == "completed"
    )
    assert attributes["choreo.request.id"].startswith("req_")
    assert "error.type" not in attributes and span.status.is_ok
    if metrics == "on":
        found = call(app, "GET", "/metrics").body.decode()
        assert 'choreo_requests_total{api="chat",model="echo",outcome="completed"} 1.0' in found


def test_provider_receives_our_span_as_parent(spans: InMemorySpanExporter) -> None:
    """So its spans are children of ours, as ours are of the caller's."""
    account = Account("id", "POST", CHAT, "", observers=[Spans(make_app())])
    account.began -= 5.0
    account.target = "up/stream"
    account.requested("chat", "m", {"x-request-id": "id", "traceparent": PARENT})
    account.finish("client_left")
    span = only(spans)
    version, trace_id, span_id, flags = account.trace["traceparent"].split("-")
    assert (version, trace_id, flags) == ("00", PARENT.split("-")[1], "01")
    assert span_id == f"{span.context.span_id:016x}" != PARENT.split("-")[2]
    assert account.trace["x-request-id"] == "id"
    assert span.end_time - span.start_time >= 5e9 and span.status.is_ok
    assert span.attributes["gen_ai.response.model"] == "stream"


def test_failed_request_sets_the_error_of_its_span(spans: InMemorySpanExporter) -> None:
    app = make_app({"otel": "on", "default_model": "none"})
    call(app, "POST", CHAT, chat("x", model="nobody"))
    span = only(spans)
    assert span.attributes["error.type"] == "model_not_found"
    assert span.attributes["http.response.status_code"] == 404
    assert not span.status.is_ok and span.parent is None


def test_request_without_a_model_has_no_span(spans: InMemorySpanExporter) -> None:
    app = make_app({"otel": "on"})
    call(app, "GET", "/v1/models")
    call(app, "POST", CHAT, b"{")
    assert not spans.get_finished_spans()


def test_span_contains_no_key_and_no_prompt(spans: InMemorySpanExporter) -> None:
    section = {"digest": hashlib.sha256(b"sk-secret").hexdigest()}
    app = make_app({"otel": "on"}, {"key ann": section})
    call(app, "POST", CHAT, chat("the prompt"), HTTP_AUTHORIZATION="Bearer sk-secret")
    assert only(spans).attributes["choreo.key.name"] == "ann"
    text = only(spans).to_json()
    assert "sk-secret" not in text and "the prompt" not in text
