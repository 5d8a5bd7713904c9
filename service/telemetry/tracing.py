"""OpenTelemetry traces with one span per stage of a request. Nothing is loaded unless configured.

Spans are created after the request, from the times that its context has recorded anyway. A request
that is not sampled therefore only costs the reading of one header.
"""

import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from service.request_context import RequestContext

_SAMPLED = 0x01


class TracingUnavailableError(Exception):
    """Tracing is configured, but the exporter is not installed."""


class Tracing:
    """Tracer that creates the spans of sampled requests and sends them to an OTLP exporter.

    Args:
        endpoint: URL that accepts OTLP over HTTP, e.g. ``http://collector:4318/v1/traces``.
        ratio: share of the requests without `traceparent` to sample. A `traceparent` carries the
            caller's decision, which is kept (W3C Trace Context).

    Raises:
        TracingUnavailableError: the exporter is not installed.
    """

    def __init__(self, endpoint: str, *, ratio: float) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError as error:
            raise TracingUnavailableError(
                "LIMELIGHT_TRACE_ENDPOINT is set, and the exporter is not installed: "
                "pip install 'limelight[tracing]'"
            ) from error
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._ratio = ratio
        self._random = random.Random()  # noqa: S311  # a sample, not a secret
        self._propagator = TraceContextTextMapPropagator()
        # `begin` decides before any span is created.
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource.create({"service.name": "limelight"})
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
        self._tracer = self._provider.get_tracer("limelight")

    def begin(self, name: str, headers: Mapping[bytes, bytes]) -> "Span | None":
        """Start the span of a request; None if the request is not sampled."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, get_current_span

        context, parent = Context(), headers.get(b"traceparent")
        if parent is not None:
            carrier = {"traceparent": parent.decode("latin-1")}
            if state := headers.get(b"tracestate"):
                carrier["tracestate"] = state.decode("latin-1")
            context = self._propagator.extract(carrier, context)
        caller = get_current_span(context).get_span_context()
        sampled = (
            bool(caller.trace_flags & _SAMPLED)
            if caller.is_valid
            else self._random.random() < self._ratio
        )
        return self._tracer.start_span(name, context, SpanKind.SERVER) if sampled else None

    def end(
        self, span: "Span", request: "RequestContext", attributes: Mapping[str, str | int]
    ) -> None:
        """Create a span for each stage of a request, then end the span of the request."""
        from opentelemetry.trace import set_span_in_context

        # Spans need Unix time, and perf_counter has another origin.
        origin_ns = time.time_ns() - time.perf_counter_ns()
        context = set_span_in_context(span)
        for stage, begun, ended in request.stages:
            child = self._tracer.start_span(stage, context, start_time=origin_ns + int(begun * 1e9))
            child.end(origin_ns + int(ended * 1e9))
        span.set_attributes(attributes)
        span.end()

    def close(self) -> None:
        """Send the remaining spans."""
        self._provider.shutdown()


def trace_id(span: "Span") -> str:
    """Return the trace ID as 32 hexadecimal digits, for the log."""
    return f"{span.get_span_context().trace_id:032x}"


def trace_response(span: "Span") -> bytes:
    """Return the value of a `traceresponse` header (W3C Trace Context, level 2)."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01".encode()
