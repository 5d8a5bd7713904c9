"""Traces, log lines and metrics of a real service with two workers."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from service.process.workers import usable_cores
from tests.service.http.test_routes import PNG
from tests.service.telemetry.collector import Collector, collecting
from tests.service.telemetry.scraping import find, samples
from tests.serving_kit import Server, bentoml_serve

PARENT = "00f067aa0ba902b7"
STAGES = ["read", "decode", "queue", "compute", "render"]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def watched(
    zoo: Path, tmp_path_factory: pytest.TempPathFactory, collector: Collector
) -> Iterator[Server]:
    with bentoml_serve(
        zoo,
        tmp_path_factory.mktemp("watched"),
        LIMELIGHT_WORKERS="2",
        LIMELIGHT_THREADS="3",
        LIMELIGHT_ACCESS_LOG="true",
        LIMELIGHT_LOG_FORMAT="json",
        LIMELIGHT_TRACE_ENDPOINT=collector.endpoint,
        LIMELIGHT_TRACE_RATIO="0",
        OTEL_BSP_SCHEDULE_DELAY="100",
    ) as server:
        yield server


def post(server: Server, path: str = "/predict", **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", content=PNG, headers=headers, timeout=20)


def attributes(span: Span) -> dict[str, Any]:
    return {
        entry.key: getattr(entry.value, str(entry.value.WhichOneof("value")))
        for entry in span.attributes
    }


def test_log_states_the_number_of_workers_and_threads(watched: Server) -> None:
    assert f"2 worker(s) of 3 thread(s) on {usable_cores()} usable core(s)" in watched.log()


# Traces


@pytest.mark.parametrize(
    ("path", "trace"),
    [("/predict", "a" * 32), ("/explain", "b" * 32), ("/explain?format=png", "c" * 32)],
)
def test_sampled_request_is_a_span_with_its_stages_as_children(
    watched: Server, collector: Collector, path: str, trace: str
) -> None:
    before = time.time_ns()
    response = post(watched, path, traceparent=f"00-{trace}-{PARENT}-01", tracestate="a=b")
    after = time.time_ns()
    spans = collector.wait_for(trace, 1 + len(STAGES))
    (server,) = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    assert server.parent_span_id.hex() == PARENT
    assert server.trace_state == "a=b"
    assert server.name == f"POST {path.partition('?')[0]}"
    assert attributes(server) == {
        "http.request.method": "POST",
        "http.route": path.partition("?")[0],
        "http.response.status_code": 200,
        "limelight.model": "colours",
        "limelight.model_digest": response.headers["x-model-digest"],
        "limelight.request_id": response.headers["x-request-id"],
    }
    assert response.headers["traceresponse"] == f"00-{trace}-{server.span_id.hex()}-01"
    # Upper limit of the difference between the two clocks that the times come from.
    slack_ns = 2_000_000
    assert before - slack_ns <= server.start_time_unix_nano < server.end_time_unix_nano
    # On a busy machine the client may continue before the span ends.
    assert server.end_time_unix_nano <= after + 10**10
    children = sorted((s for s in spans if s is not server), key=lambda s: s.start_time_unix_nano)
    assert [child.name for child in children] == STAGES
    last = server.start_time_unix_nano - slack_ns
    for child in children:
        assert child.parent_span_id == server.span_id
        assert last <= child.start_time_unix_nano <= child.end_time_unix_nano
        last = child.end_time_unix_nano
    assert last <= server.end_time_unix_nano + slack_ns
    assert collector.services == {"limelight"}


def test_only_requests_sampled_by_the_caller_are_traced_at_ratio_0(
    watched: Server, collector: Collector
) -> None:
    unsampled, sampled = "1" * 32, "2" * 32
    malformed = ["", "00-x-y-01", f"00-{'0' * 32}-{PARENT}-01", "99"]
    for headers in [{}, *({"traceparent": value} for value in malformed)]:
        assert "traceresponse" not in post(watched, **headers).headers
    response = post(watched, traceparent=f"00-{unsampled}-{PARENT}-00")
    assert "traceresponse" not in response.headers
    refused = post(watched, "/predict?top_k=0", traceparent=f"00-{sampled}-{PARENT}-01")
    assert refused.status_code == 422
    assert "traceresponse" in refused.headers
    (server,) = [s for s in collector.wait_for(sampled, 2) if s.kind == Span.SPAN_KIND_SERVER]
    assert attributes(server)["http.response.status_code"] == 422
    traces = {span.trace_id.hex() for span in collector.spans}
    assert unsampled not in traces
    # Requests without a valid header would have traces of their own.
    assert traces <= {"a" * 32, "b" * 32, "c" * 32, sampled}


# Log lines


def test_every_line_of_a_worker_is_one_json_object(watched: Server) -> None:
    trace = "3" * 32
    traced = post(watched, traceparent=f"00-{trace}-{PARENT}-01")
    named = {"X-Request-Id": "from-the-client"}
    httpx.post(f"{watched.url}/explain?top_k=0", content=PNG, headers=named)
    httpx.get(f"{watched.url}/no/such%0apath", headers={"X-Request-Id": "nowhere"})
    wanted = {traced.headers["x-request-id"], "from-the-client", "nowhere"}
    deadline = time.monotonic() + 10
    while True:
        # The parent process logs its address in its own format before any worker runs.
        # A line without a line break is still being written.
        text = watched.log().rpartition("\n")[0].splitlines()
        lines = [json.loads(line) for line in text if line and "[cli]" not in line]
        access = {line.get("request_id"): line for line in lines}
        if wanted <= set(access):
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for line in lines:
        assert {"time", "level", "logger", "message"} <= set(line)
        assert line["level"] in {"info", "warning"}
    line = access[traced.headers["x-request-id"]]
    assert (line["route"], line["status"], line["method"]) == ("/predict", 200, "POST")
    assert (line["model"], line["trace_id"]) == ("colours", trace)
    assert line["digest"] == traced.headers["x-model-digest"]
    assert 0 < line["duration_ms"] < 20_000
    line = access["from-the-client"]
    assert (line["route"], line["status"]) == ("/explain", 422)
    assert "trace_id" not in line
    line = access["nowhere"]
    assert (line["route"], line["status"]) == ("other", 404)


# Metrics


def test_every_scrape_sums_over_the_workers(watched: Server) -> None:
    paths = ["/predict?model=digits"] * 30 + ["/explain?model=digits"] * 10
    before = samples(watched)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda path: post(watched, path), paths))
    assert {answer.status_code for answer in answers} == {200}
    label = answers[0].json()["label"]
    expected: dict[tuple[str, ...], float] = {
        ("requests_total", "route=/predict", "model=digits", "version=12", "code=200"): 30,
        ("requests_total", "route=/explain", "model=digits", "version=12", "code=200"): 10,
        ("predictions_total", "model=digits", f"label={label}"): 40,
        ("explanations_total", "model=digits", "method=cam"): 10,
        ("confidence_count", "model=digits"): 40,
        ("batch_size_sum", "model=digits"): 40,
        ("stage_duration_seconds_count", "model=digits", "stage=queue"): 40,
        ("stage_duration_seconds_count", "model=digits", "stage=render"): 40,
    }

    def counted() -> dict[tuple[str, ...], float]:
        now = samples(watched)

        def more(name: str, *pairs: str) -> float:
            labels = dict(pair.split("=") for pair in pairs)
            return find(now, f"limelight_{name}", **labels) - find(
                before, f"limelight_{name}", **labels
            )

        return {key: more(*key) for key in expected}

    deadline = time.monotonic() + 10
    while counted() != expected:
        assert time.monotonic() < deadline, counted()
        time.sleep(0.1)
    for _ in range(8):  # each over a new connection, which either worker may accept
        assert counted() == expected


def test_every_metric_is_exposed_after_traffic_of_every_kind(watched: Server) -> None:
    post(watched)
    post(watched, "/explain")
    post(watched, "/predict?top_k=0")
    deadline = time.monotonic() + 10
    while True:
        found = samples(watched)
        if find(found, "limelight_workers") == 2 and find(
            found, "limelight_explanations_total", model="colours"
        ):
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    names = {name for name, _ in found}
    for name in ("requests", "rejected", "explanations", "predictions"):
        assert f"limelight_{name}_total" in names
    for name in ("request_duration_seconds", "stage_duration_seconds", "batch_size", "confidence"):
        assert {f"limelight_{name}_{part}" for part in ("bucket", "sum", "count")} <= names
    for name in ("load_seconds", "warm_up_seconds"):
        assert find(found, f"limelight_model_{name}", model="colours") > 0
    for model in ("colours", "digits"):
        assert find(found, "limelight_queue_depth", model=model) == 0
        assert find(found, "limelight_queue_age_seconds", model=model) == 0
        assert find(found, "limelight_model_info", model=model, provider="CPU") == 1
    assert find(found, "limelight_ready") == 1
    assert 0 <= find(found, "limelight_in_flight") <= 2
    assert find(found, "limelight_rejected_total", reason="invalid_parameter") >= 1
    assert not any("gpu" in name for name in names)
    # A gauge has one value for the service, not one for each worker.
    assert not any(label == "pid" for _, labels in found for label, _ in labels)
