"""Requests of the protocol in traces and logs, as those of every other route are."""

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

from service.calls import STAGES
from tests.oip.kit import INFER, free_port, images_input, pixels, request
from tests.service.collector import Collector, collecting
from tests.service.kit import Server, bentoml_serve

PARENT = "00f067aa0ba902b7"
METHOD = "/inference.GRPCInferenceService/ModelInfer"
# Pixels come as they are: nothing is decoded.
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
        for line in server.log().splitlines():
            if request_id in line:
                found: dict[str, Any] = json.loads(line)
                return found
        time.sleep(0.05)
    raise AssertionError(f"nothing is said of {request_id}")


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_a_request_is_traced_and_logged(
    watched: Server, collector: Collector, grpc_port: int, rng: np.random.Generator, way: str
) -> None:
    trace, images_nhwc = way.encode().hex().zfill(32), pixels(rng, 3)
    headers = {"x-request-id": f"call-by-{way}", "traceparent": f"00-{trace}-{PARENT}-01"}
    if way == "http":
        body = request(images_input(images_nhwc))
        response = httpx.post(f"{watched.url}{INFER}", json=body, headers=headers)
        assert response.headers["traceresponse"].startswith(f"00-{trace}-")
        name, route, method = f"POST {INFER}", INFER, "POST"
        name, route = (text.replace("colours", "{name}") for text in (name, route))
    else:
        message = service_pb2.ModelInferRequest(model_name="colours")
        message.inputs.add(name="images", datatype="UINT8", shape=images_nhwc.shape)
        message.raw_input_contents.append(images_nhwc.tobytes())
        with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            stub.ModelInfer(message, metadata=list(headers.items()), wait_for_ready=True)
        name = route = METHOD
        method = "GRPC"
    spans = collector.wait_for(trace, 1 + len(SPANS))
    (whole,) = [span for span in spans if span.parent_span_id.hex() == PARENT]
    assert whole.name == name
    parts = {span.name for span in spans if span.parent_span_id == whole.span_id}
    assert parts == SPANS
    line = logged(watched, headers["x-request-id"])
    assert (line["route"], line["method"], line["status"]) == (route, method, 200)
    assert (line["model"], line["trace_id"]) == ("colours", trace)
