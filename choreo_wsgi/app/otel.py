"""A span for each request to a model, by OpenTelemetry's GenAI semantic conventions.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/  The exporter is configured as in
any program: by ``opentelemetry-instrument`` and the variables ``OTEL_*``, or by code.
"""

from __future__ import annotations

import time

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .account import Account, Observer

_TRACER = trace.get_tracer("choreo_wsgi")
_PROPAGATOR = TraceContextTextMapPropagator()
_SUCCESS = ("ok", "completed", "client_closed", "client_left")

#: The members of the log, and the span attributes of the conventions that they become.
_ATTRIBUTES = {
    "id": "choreo.request.id",
    "key": "choreo.key.name",
    "outcome": "choreo.outcome",
    "method": "http.request.method",
    "path": "url.path",
    "status": "http.response.status_code",
    "first": "gen_ai.response.time_to_first_chunk",
    "tokens_in": "gen_ai.usage.input_tokens",
    "tokens_out": "gen_ai.usage.output_tokens",
}


class Spans(Observer):
    """Starts a span when the requested model is known, and ends it with the request."""

    def requested(self, account: Account) -> None:
        """Start the span of *account*: a child of the caller's, and the provider's parent."""
        elapsed = time.monotonic() - account.began
        account.span = _TRACER.start_span(
            f"chat {account.model}",
            context=_PROPAGATOR.extract(account.trace),
            kind=SpanKind.SERVER,
            start_time=time.time_ns() - int(elapsed * 1e9),
            attributes={"gen_ai.operation.name": "chat", "gen_ai.request.model": account.model},
        )
        _PROPAGATOR.inject(account.trace, context=trace.set_span_in_context(account.span))

    def finished(self, account: Account) -> None:
        """Set the attributes of the finished request and end the span."""
        span = account.span
        if span is None:
            return
        members = account.members()
        for member, name in _ATTRIBUTES.items():
            if members[member] is not None:
                span.set_attribute(name, members[member])
        provider, _, model = account.target.partition("/")
        if provider:
            span.set_attribute("gen_ai.provider.name", provider)
            span.set_attribute("gen_ai.response.model", model or account.model)
        if account.outcome not in _SUCCESS:
            span.set_attribute("error.type", account.outcome)
            span.set_status(Status(StatusCode.ERROR))
        span.end()
