"""Traces, log lines and metrics of the protocol's requests."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.request_context import STAGES
from tests.service.oip.kit import INFER, free_port, images_input, pixels, request
from tests.service.telemetry.collector import Collector, collecting
from tests.service.telemetry.scraping import find, samples
from tests.serving_kit import Server, bentoml_serve

PARENT = "00f067aa0ba902b7"
METHOD = "/inference.GRPCInferenceService/ModelInfer"
# Pixels are sent raw, so there is no decoding stage.
SPANS = {stage for stage in STAGES if stage != "decode"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def grpc_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def watched(
    zoo: Path, tmp_path_factory: pytest.TempPathFactory, collector: Collector, grpc_port: int
) -> Iterator[Server]:
    with bentoml_serve(
        zoo,
        tmp_path_factory.mktemp("watched"),
        LIMELIGHT_DEVICE="cpu",
        LIMELIGHT_WORKERS="1",
        LIMELIGHT_GRPC_PORT=str(grpc_port),
        LIMELIGHT_ACCESS_LOG="true",
        LIMELIGHT_LOG_FORMAT="json",
        LIMELIGHT_TRACE_ENDPOINT=collector.endpoint,
        LIMELIGHT_TRACE_RATIO="0",
        OTEL_BSP_SCHEDULE_DELAY="100",
    ) as server:
        yield server


def logged(server: Server, request_id: str, timeout_s: float = 10) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for line in server.log().rpartition("\n")[0].splitlines():
            if request_id in line:
                found: dict[str, Any] = json.loads(line)
                return found
        time.sleep(0.05)
    raise AssertionError(f"no log line of {request_id}")


def ask(
    server: Server, port: int, way: str, images_nhwc: np.ndarray, outputs: list[str], **headers: str
) -> None:
    """Send an inference request over HTTP or gRPC; empty `outputs` request all of them."""
    if way == "http":
        body = request(images_input(images_nhwc))
        body |= {"outputs": [{"name": name} for name in outputs]} if outputs else {}
        response = httpx.post(f"{server.url}{INFER}", json=body, headers=headers)
        assert response.status_code == 200
        return
    message = service_pb2.ModelInferRequest(model_name="colours")
    message.inputs.add(name="images", datatype="UINT8", shape=images_nhwc.shape)
    message.raw_input_contents.append(images_nhwc.tobytes())
    for name in outputs:
        message.outputs.add(name=name)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        stub.ModelInfer(message, metadata=list(headers.items()), wait_for_ready=True)


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_a_request_is_traced_and_logged(
    watched: Server, collector: Collector, grpc_port: int, rng: np.random.Generator, way: str
) -> None:
    trace, images_nhwc = way.encode().hex().zfill(32), pixels(rng, 3)
    headers = {"x-request-id": f"call-by-{way}", "traceparent": f"00-{trace}-{PARENT}-01"}
    ask(watched, grpc_port, way, images_nhwc, [], **headers)
    name = route = METHOD
    method = "GRPC"
    if way == "http":
        route, method = INFER.replace("colours", "{name}"), "POST"
        name = f"POST {route}"
    spans = collector.wait_for(trace, 1 + len(SPANS))
    (whole,) = [span for span in spans if span.parent_span_id.hex() == PARENT]
    assert whole.name == name
    parts = {span.name for span in spans if span.parent_span_id == whole.span_id}
    assert parts == SPANS
    line = logged(watched, headers["x-request-id"])
    assert (line["route"], line["method"], line["status"]) == (route, method, 200)
    assert (line["model"], line["trace_id"]) == ("colours", trace)


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_every_image_of_a_batch_is_counted(
    watched: Server, grpc_port: int, rng: np.random.Generator, way: str
) -> None:
    """Each image counts by its predicted class, and by the method if a map is requested."""
    images_nhwc = np.zeros_like(pixels(rng, 5))
    images_nhwc[:2, :, :, 0] = images_nhwc[2:, :, :, 2] = 255  # two red images, three blue ones
    before = counts(watched)
    ask(watched, grpc_port, way, images_nhwc, ["logits"])
    ask(watched, grpc_port, way, images_nhwc[:2], ["cams", "logits"])
    expected = {"red": 4.0, "blue": 3.0, "cam": 2.0, "confidence": 7.0}
    deadline = time.monotonic() + 10
    while (found := {key: value - before[key] for key, value in counts(watched).items()}) and (
        found != expected
    ):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def counts(server: Server) -> dict[str, float]:
    found = samples(server)
    return {
        "red": find(found, "limelight_predictions_total", model="colours", label="red"),
        "blue": find(found, "limelight_predictions_total", model="colours", label="blue"),
        "cam": find(found, "limelight_explanations_total", model="colours", method="cam"),
        "confidence": find(found, "limelight_confidence_count", model="colours"),
    }
