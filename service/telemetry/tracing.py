"""OpenTelemetry traces with one span per stage of a request. Nothing is loaded unless configured.

The spans of stages are created after the request, from the times that its context has recorded
anyway. A request that is not sampled therefore only costs the sampling decision, 4 µs.

OpenTelemetry's SDK reads its own environment variables (`OTEL_*`): endpoint, headers, resource,
sampler, propagators, limits and batches. Our settings are the defaults of two of them.
"""

import logging
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from service.request_context import RequestContext

logger = logging.getLogger("limelight.tracing")

_PROTOCOL = "http/protobuf"


class TracingUnavailableError(Exception):
    """Tracing is configured, but the exporter is not installed."""


def configured(endpoint: str | None, *, ratio: float) -> "Tracing | None":
    """Return the tracing that the settings or OpenTelemetry's variables ask for, or None.

    `endpoint` is our setting. Without it, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or
    `OTEL_EXPORTER_OTLP_ENDPOINT` enables tracing. These variables may be meant for all programs of
    a machine: if they ask for what is not possible, it is logged, and there are no traces.

    Raises:
        TracingUnavailableError: our setting is set, and the exporter is not installed.
    """
    exporters = [each.strip() for each in (_variable("TRACES_EXPORTER") or "otlp").split(",")]
    if _variable("SDK_DISABLED").lower() == "true" or "otlp" not in exporters:
        return None
    if endpoint is None:
        if not (_variable("EXPORTER_OTLP_TRACES_ENDPOINT") or _variable("EXPORTER_OTLP_ENDPOINT")):
            return None
        protocol = _variable("EXPORTER_OTLP_TRACES_PROTOCOL") or _variable("EXPORTER_OTLP_PROTOCOL")
        if protocol not in ("", _PROTOCOL):
            logger.warning(
                "no traces: the OTLP protocol is %r, and must be %s", protocol[:100], _PROTOCOL
            )
            return None
    try:
        return Tracing(endpoint, ratio=ratio)
    except TracingUnavailableError as error:
        if endpoint is not None:
            raise
        logger.warning("no traces: %s", error)
    except ValueError as error:
        logger.warning("no traces: a variable OTEL_* is invalid: %s", error)
    return None


class Tracing:
    """Tracer that creates the spans of sampled requests and sends them to an OTLP exporter.

    Args:
        endpoint: URL that accepts OTLP over HTTP, e.g. ``http://collector:4318/v1/traces``; None:
            that of OpenTelemetry's variables.
        ratio: share of the requests without `traceparent` to sample, unless `OTEL_TRACES_SAMPLER`
            is set. A `traceparent` carries the caller's decision, which is kept (W3C Trace
            Context).

    Raises:
        TracingUnavailableError: the exporter is not installed.
    """

    def __init__(self, endpoint: str | None, *, ratio: float) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError as error:
            raise TracingUnavailableError(
                "LIMELIGHT_TRACE_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT is set, and the exporter "
                "is not installed: pip install 'limelight[tracing]'"
            ) from error
        from opentelemetry.propagate import get_global_textmap
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

        self._propagator = get_global_textmap()
        self._headers = {name.encode(): name for name in self._propagator.fields}
        named = SERVICE_NAME in OTELResourceDetector().detect().attributes
        self._provider = TracerProvider(
            # None: the sampler of OpenTelemetry's variables.
            sampler=None if _variable("TRACES_SAMPLER") else ParentBasedTraceIdRatio(ratio),
            resource=Resource.create(None if named else {SERVICE_NAME: "limelight"}),
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
        self._tracer = self._provider.get_tracer("limelight")

    def begin(self, name: str, headers: Mapping[bytes, bytes]) -> "Span | None":
        """Start the span of a request; None if the request is not sampled."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        context = Context()
        carrier = {
            name: headers[key].decode("latin-1")
            for key, name in self._headers.items()
            if key in headers
        }
        if carrier:
            context = self._propagator.extract(carrier, context)
        span = self._tracer.start_span(name, context, SpanKind.SERVER)
        return span if span.is_recording() else None

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


def _variable(name: str) -> str:
    """Return one of OpenTelemetry's variables, without its prefix; empty counts as not set."""
    return os.environ.get(f"OTEL_{name}", "").strip()
