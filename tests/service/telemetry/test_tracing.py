"""Sampling of requests, export of spans, and loading of OpenTelemetry on demand."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from service.request_context import RequestContext
from service.telemetry.tracing import (
    Tracing,
    TracingUnavailableError,
    configured,
    trace_id,
    trace_response,
)
from tests.service.http.test_routes import PNG
from tests.service.telemetry.collector import Collector, collecting
from tests.serving_kit import REPOSITORY, bentoml_serve

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
        configured("http://127.0.0.1:9/v1/traces", ratio=1)


# OpenTelemetry's own variables

OTEL = "OTEL_EXPORTER_OTLP_ENDPOINT"


def test_standard_variables_configure_a_service_without_our_settings(
    zoo: Path, tmp_path: Path, collector: Collector
) -> None:
    with bentoml_serve(
        zoo,
        tmp_path,
        LIMELIGHT_WORKERS="1",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint.removesuffix("/v1/traces"),
        OTEL_EXPORTER_OTLP_HEADERS="api-key=a%20b,tenant=c",
        OTEL_SERVICE_NAME="shop",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test,service.name=other",
        OTEL_TRACES_SAMPLER="always_on",
        OTEL_BSP_SCHEDULE_DELAY="100",
    ) as server:
        # The sampler is not based on the parent, so it also takes what the caller left out.
        unsampled = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
        response = httpx.post(f"{server.url}/predict", content=PNG, headers=unsampled)
        assert response.headers["traceresponse"].startswith(f"00-{TRACE}-")
        assert len(collector.wait_for(TRACE, 6)) == 6
    assert collector.services == {"shop"}
    assert collector.resources[0]["deployment.environment.name"] == "test"
    assert (collector.headers[0]["api-key"], collector.headers[0]["tenant"]) == ("a b", "c")


def test_endpoint_of_traces_is_used_as_it_is(
    monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    monkeypatch.setenv(OTEL, "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.endpoint)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=shop")
    tracing = configured(None, ratio=0)
    assert tracing is not None
    span = tracing.begin("a", headers("01"))
    assert span is not None
    tracing.end(span, RequestContext(), {})
    tracing.close()
    assert len(collector.of(TRACE)) == 1
    assert collector.services == {"shop"}


def test_our_endpoint_precedes_that_of_the_variables(
    monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9/v1/traces")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")  # not for this endpoint
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console, otlp")
    tracing = configured(collector.endpoint, ratio=1)
    assert tracing is not None
    span = tracing.begin("a", headers("01"))
    assert span is not None
    tracing.end(span, RequestContext(), {})
    tracing.close()
    assert len(collector.of(TRACE)) == 1
    assert collector.services == {"limelight"}


@pytest.mark.parametrize(
    ("sampler", "argument", "sampled"),
    [
        # Share of the requests without a caller's decision, with one, and with one against it.
        ("", "", (0.0, 1.0, 0.0)),
        ("always_on", "", (1.0, 1.0, 1.0)),
        ("always_off", "", (0.0, 0.0, 0.0)),
        ("parentbased_always_on", "", (1.0, 1.0, 0.0)),
        ("parentbased_traceidratio", "0.5", (0.5, 1.0, 0.0)),
        ("traceidratio", "0", (0.0, 0.0, 0.0)),
    ],
)
def test_sampler_of_the_variables_precedes_our_ratio(
    monkeypatch: pytest.MonkeyPatch, sampler: str, argument: str, sampled: tuple[float, ...]
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    tracing = Tracing("http://127.0.0.1:9/v1/traces", ratio=0)
    for given, share in zip(({}, headers("01"), headers("00")), sampled, strict=True):
        taken = sum(tracing.begin("a", given) is not None for _ in range(400))
        assert taken == 400 * share if share in (0, 1) else 120 < taken < 280
    tracing.close()


@pytest.mark.parametrize(
    ("propagators", "begun", "words"),
    [
        ("baggage", "None", ""),
        ("tracecontext", "RecordingSpan", ""),
        ("nonsense", "no tracing", "no traces: a variable OTEL_* is invalid: Propagator nonsense"),
    ],
)
def test_propagators_of_the_variables_are_used(propagators: str, begun: str, words: str) -> None:
    """Run another process, because OpenTelemetry reads this variable when it is imported."""
    code = """if True:
        from service.telemetry.tracing import configured
        tracing = configured("http://127.0.0.1:9/v1/traces", ratio=0)
        if tracing is None:
            print("no tracing")
        else:
            span = tracing.begin("a", {b"traceparent": b"00-%032x-%016x-01" % (1, 1)})
            print(None if span is None else "RecordingSpan")
    """
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=os.environ | {"OTEL_PROPAGATORS": propagators},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.strip() == begun
    assert words in process.stderr


@pytest.mark.parametrize(
    ("variables", "warning"),
    [
        ({}, ""),
        ({OTEL: ""}, ""),
        ({OTEL: "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "True"}, ""),
        ({OTEL: "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"}, ""),
        (
            {OTEL: "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "the OTLP protocol is 'grpc', and must be http/protobuf",
        ),
    ],
)
def test_tracing_is_off_without_an_endpoint_or_where_the_variables_say_so(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variables: dict[str, str],
    warning: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert configured(None, ratio=1) is None
    assert warning in caplog.text
    assert bool(caplog.text) == bool(warning)


def test_disabled_sdk_precedes_our_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert configured("http://127.0.0.1:9/v1/traces", ratio=1) is None


def test_missing_exporter_is_only_logged_if_our_endpoint_is_not_set(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv(OTEL, "http://127.0.0.1:9")
    assert configured(None, ratio=1) is None
    assert "pip install 'limelight[tracing]'" in caplog.text


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
