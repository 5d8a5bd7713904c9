"""OpenTelemetry traces, with a request's stages as spans; nothing is loaded unless configured.

Spans are made when a request is over, from the times that were noted anyway, so a request that
is not sampled costs the reading of one header.
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
    """Tracing is configured, and what it needs is not installed."""


class Tracing:
    """Makes the spans of sampled requests and hands them to an OTLP exporter.

    Args:
        endpoint: where OTLP over HTTP is taken, e.g. ``http://collector:4318/v1/traces``.
        ratio: share of requests to sample, of those whose caller sent no `traceparent`; a
            caller's own decision is kept (W3C Trace Context).

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
        # The decision is made in `begin`, before anything is built.
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource.create({"service.name": "limelight"})
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
        self._tracer = self._provider.get_tracer("limelight")

    def begin(self, name: str, headers: Mapping[bytes, bytes]) -> "Span | None":
        """The request's span, where it is sampled."""
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
        """Close the span of a request, after one for each of its stages."""
        from opentelemetry.trace import set_span_in_context

        # perf_counter has an origin of its own.
        origin_ns = time.time_ns() - time.perf_counter_ns()
        context = set_span_in_context(span)
        for stage, begun, ended in request.stages:
            child = self._tracer.start_span(stage, context, start_time=origin_ns + int(begun * 1e9))
            child.end(origin_ns + int(ended * 1e9))
        span.set_attributes(attributes)
        span.end()

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()


def trace_id(span: "Span") -> str:
    """32 hexadecimal digits, as in logs."""
    return f"{span.get_span_context().trace_id:032x}"


def trace_response(span: "Span") -> bytes:
    """The value of a `traceresponse` header (W3C Trace Context, level 2)."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01".encode()
