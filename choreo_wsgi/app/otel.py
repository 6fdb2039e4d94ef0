"""A span for each request to a model, by OpenTelemetry's GenAI semantic conventions.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/  Where spans go is set up as for
any program: by ``opentelemetry-instrument`` and the variables ``OTEL_*``, or by code.
"""

from __future__ import annotations

import time

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .account import Account
from .observers import Observer

_TRACER = trace.get_tracer("choreo_wsgi")
_PROPAGATOR = TraceContextTextMapPropagator()
_SUCCESS = ("ok", "completed", "client_closed", "client_left")


class Spans(Observer):
    """Begins a span when it is known what is asked, and ends it with the request."""

    def asked(self, account: Account) -> None:
        """Begin the span of *account*, below the caller's and above the provider's."""
        elapsed = time.monotonic() - account.began
        span = _TRACER.start_span(
            f"chat {account.model}",
            context=_PROPAGATOR.extract(account.trace),
            kind=SpanKind.SERVER,
            start_time=time.time_ns() - int(elapsed * 1e9),
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": account.model,
                "http.request.method": account.method,
                "url.path": account.path,
                "choreo.request.id": account.id,
                "choreo.key.name": account.key.name,
            },
        )
        account.span = span
        _PROPAGATOR.inject(account.trace, context=trace.set_span_in_context(span))

    def finished(self, account: Account) -> None:
        """End the span with what is known now."""
        span = account.span
        if span is None:
            return
        provider, _, model = account.target.partition("/")
        known = {
            "gen_ai.provider.name": provider,
            "gen_ai.response.model": model or account.model if provider else "",
            "http.response.status_code": account.status,
            "choreo.outcome": account.outcome,
        }
        span.set_attributes({name: value for name, value in known.items() if value})
        if account.first is not None:
            span.set_attribute("gen_ai.response.time_to_first_chunk", account.first - account.began)
        if account.usage is not None:
            span.set_attribute("gen_ai.usage.input_tokens", account.usage.prompt_tokens)
            span.set_attribute("gen_ai.usage.output_tokens", account.usage.completion_tokens)
        if account.outcome not in _SUCCESS:
            span.set_attribute("error.type", account.outcome)
            span.set_status(Status(StatusCode.ERROR))
        span.end()
