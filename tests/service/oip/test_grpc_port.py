"""gRPC port: opening, failure to open, and accepted calls when it closes."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.settings import Settings
from tests.service.oip.kit import free_port, pixels
from tests.service.test_app import Served
from tests.serving_kit import REPOSITORY, bentoml_serve

SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)


async def test_occupied_port_keeps_the_service_unready(zoo: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings(models=zoo, default_model="colours", device="cpu", grpc_port=port)
        async with Served(settings) as served:
            for path in ("/readyz", "/v2/health/ready"):
                answer = await served.http.get(path)
                assert answer.status_code == 503
                assert f"gRPC cannot be served on port {port}" in answer.text
            assert (await served.http.get("/v2/health/live")).status_code == 200


def test_missing_grpc_packages_name_the_extra() -> None:
    code = "import sys; sys.modules['grpc_health'] = None; import service.bento"
    environment = os.environ | {"LIMELIGHT_GRPC_PORT": "8001"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "pip install 'limelight[grpc]'" in done.stderr


def test_grpc_is_not_loaded_without_a_port() -> None:
    code = "import sys, service.app; print([n for n in sys.modules if n.startswith('grpc')])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"


def test_service_reports_not_serving_before_it_ends_and_answers_accepted_calls(
    zoo: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    port, images_nhwc = free_port(), pixels(rng)
    request = service_pb2.ModelInferRequest(model_name="colours")
    request.inputs.add(name="images", datatype="UINT8", shape=images_nhwc.shape)
    request.raw_input_contents.append(images_nhwc.tobytes())
    with (
        bentoml_serve(
            zoo,
            tmp_path,
            LIMELIGHT_DEVICE="cpu",
            LIMELIGHT_WORKERS="2",
            LIMELIGHT_DRAIN_S="1",
            LIMELIGHT_GRPC_PORT=str(port),
        ) as server,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        stub.ModelInfer(request, wait_for_ready=True, timeout=20)
        seen: list[Any] = []
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())

        def look() -> None:
            try:
                seen.extend(answer.status for answer in watch)
            except grpc.RpcError as error:
                seen.append(error.code())

        watching = threading.Thread(target=look)
        watching.start()
        while not seen:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        answered = 0
        while NOT_SERVING not in seen:
            stub.ModelInfer(request)
            answered += 1
        # The service is not ready but still answers, so that load balancers can react.
        for _ in range(10):
            stub.ModelInfer(request)
        server.process.wait(timeout=5)  # although a client still watches
        watching.join(timeout=5)
        assert seen[:2] == [SERVING, NOT_SERVING]
        assert answered > 0
        with pytest.raises(grpc.RpcError) as gone:
            stub.ModelInfer(request)
        assert gone.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "Traceback" not in server.log()
