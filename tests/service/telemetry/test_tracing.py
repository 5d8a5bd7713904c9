"""Sampling of requests, export of spans, and loading of OpenTelemetry on demand."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from service.request_context import RequestContext
from service.telemetry.tracing import Tracing, TracingUnavailableError, trace_id, trace_response
from tests.service.telemetry.collector import Collector, collecting
from tests.serving_kit import REPOSITORY

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def headers(flags: str, trace: str = TRACE) -> dict[bytes, bytes]:
    return {b"traceparent": f"00-{trace}-{PARENT}-{flags}".encode()}


@pytest.mark.parametrize(("ratio", "sampled"), [(0.0, 0), (1.0, 200)])
def test_ratio_applies_to_callers_without_a_sampling_decision(ratio: float, sampled: int) -> None:
    tracing = Tracing("http://127.0.0.1:9/v1/traces", ratio=ratio)
    spans = [tracing.begin("a", {}) for _ in range(200)]
    assert sum(span is not None for span in spans) == sampled
    assert len({trace_id(span) for span in spans if span is not None}) == sampled
    tracing.close()


def test_ratio_samples_about_its_share() -> None:
    tracing = Tracing("http://127.0.0.1:9/v1/traces", ratio=0.25)
    taken = sum(tracing.begin("a", {}) is not None for _ in range(2000))
    assert 350 < taken < 650  # eight standard deviations
    tracing.close()


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_sampling_decision_of_the_caller_is_followed(ratio: float) -> None:
    tracing = Tracing("http://127.0.0.1:9/v1/traces", ratio=ratio)
    span = tracing.begin("a", headers("01"))
    assert span is not None
    assert trace_id(span) == TRACE
    assert trace_response(span).decode().startswith(f"00-{TRACE}-")
    assert tracing.begin("a", headers("00")) is None
    # A malformed header counts as no decision.
    assert (tracing.begin("a", headers("00", "0" * 32)) is None) == (ratio == 0)
    assert (tracing.begin("a", {b"traceparent": b"\xff"}) is None) == (ratio == 0)
    tracing.close()


def test_close_exports_pending_spans(collector: Collector) -> None:
    tracing = Tracing(collector.endpoint, ratio=1)
    span, context = tracing.begin("POST /predict", headers("01")), RequestContext()
    assert span is not None
    now = time.perf_counter()
    context.stages += [("read", now - 0.03, now - 0.02), ("compute", now - 0.02, now)]
    tracing.end(span, context, {"limelight.model": "colours"})
    tracing.close()
    spans = {span.name: span for span in collector.of(TRACE)}
    assert set(spans) == {"POST /predict", "read", "compute"}
    assert spans["POST /predict"].kind == Span.SPAN_KIND_SERVER
    durations_s = {
        name: (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
        for name, span in spans.items()
    }
    assert durations_s["read"] == pytest.approx(0.01, abs=1e-5)
    assert durations_s["compute"] == pytest.approx(0.02, abs=1e-5)
    assert abs(spans["compute"].end_time_unix_nano / 1e9 - time.time()) < 20


def test_missing_collector_does_not_delay_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    tracing = Tracing("http://127.0.0.1:9/v1/traces", ratio=1)
    started = time.monotonic()
    span = tracing.begin("a", {})
    assert span is not None
    tracing.end(span, RequestContext(), {})
    assert time.monotonic() - started < 0.5
    tracing.close()


def test_missing_exporter_names_the_setting_and_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(TracingUnavailableError, match=r"LIMELIGHT_TRACE_ENDPOINT.*pip install"):
        Tracing("http://127.0.0.1:9/v1/traces", ratio=1)


def test_opentelemetry_is_not_loaded_without_an_endpoint(zoo: Path) -> None:
    """Answers a request without BentoML, which loads OpenTelemetry by itself."""
    code = """if True:
        import asyncio, sys
        from service.app import Application
        from service.telemetry.metrics import Metrics
        from service.settings import Settings

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            pass

        application = Application(Settings(), Metrics())
        scope = {"type": "http", "method": "GET", "path": "/livez", "query_string": b"",
                 "headers": [(b"traceparent", b"00-%032x-%016x-01" % (1, 1))]}
        asyncio.run(application(scope, receive, send))
        print([name for name in sys.modules if name.startswith("opentelemetry")])
    """
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"
