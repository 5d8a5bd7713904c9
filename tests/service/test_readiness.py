"""Services that are alive but not ready, and the reason that they report."""

import signal
from pathlib import Path

import httpx
import pytest

from limelight.runtime.onnx_session import cuda_problem
from tests.service.http.test_routes import PNG, expect_problem
from tests.serving_kit import COLOUR_NETWORK, bentoml_serve, write_artifact


@pytest.mark.skipif(cuda_problem() is None, reason="this machine has a usable GPU")
def test_missing_gpu_that_is_demanded_keeps_the_service_unready(zoo: Path, tmp_path: Path) -> None:
    with bentoml_serve(
        zoo, tmp_path / "cuda", LIMELIGHT_DEVICE="cuda", LIMELIGHT_WORKERS="1"
    ) as server:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            ready = client.get("/readyz")
            detail = expect_problem(ready, 503, "not_ready")["detail"]
            assert "cuda" in detail
            assert "driver" in detail
            assert ready.headers["retry-after"]
            assert client.get("/livez").status_code == 200
            assert client.get("/healthz").json() == {"status": "alive", "ready": False}
            expect_problem(client.post("/predict", content=PNG), 503, "not_ready")
            listed = client.get("/models").json()
            assert listed["models"] == []
            assert "driver" in listed["refused"][0]["reason"]
        assert server.process.poll() is None
        assert "the service is not ready" in server.log()


def test_a_damaged_file_keeps_the_service_unready_and_the_other_model_answers(
    tmp_path: Path,
) -> None:
    models = tmp_path / "zoo"
    write_artifact(models)
    damaged = write_artifact(models, name="damaged", network=COLOUR_NETWORK) / "model.onnx"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with (
        bentoml_serve(models, tmp_path / "serve", LIMELIGHT_WORKERS="1") as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        assert "SHA-256" in expect_problem(client.get("/readyz"), 503, "not_ready")["detail"]
        broken = client.post("/predict?model=damaged", content=PNG)
        expect_problem(broken, 503, "not_ready")
        assert client.post("/predict", content=PNG).status_code == 200
        expect_problem(client.get("/models/damaged"), 503, "not_ready")


def test_an_empty_zoo_keeps_the_service_unready(tmp_path: Path) -> None:
    models = tmp_path / "zoo"
    models.mkdir()
    with bentoml_serve(models, tmp_path / "serve", LIMELIGHT_WORKERS="1") as server:
        problem = expect_problem(httpx.get(f"{server.url}/readyz"), 503, "not_ready")
        assert "LIMELIGHT_MODELS" in problem["detail"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
def test_signal_ends_the_service_with_status_0_and_without_a_traceback(
    number: signal.Signals, zoo: Path, tmp_path: Path
) -> None:
    with bentoml_serve(zoo, tmp_path / "serve", LIMELIGHT_WORKERS="1") as server:
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        server.process.send_signal(number)
        assert server.process.wait(timeout=20) == 0
    assert "Traceback" not in server.log()
