"""The application in the test's process, with failures that a real server rarely shows."""

import asyncio
import gc
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.app import Application
from service.inference.model_registry import ModelRegistry
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.serving_kit import REPOSITORY, colour_image, encode, write_artifact

PNG = encode(colour_image(np.random.default_rng(3)))
LARGE = encode(colour_image(np.random.default_rng(3), 300))


class Served:
    """Application with its lifespan events, and an HTTP client of it."""

    def __init__(self, settings: Settings) -> None:
        metrics = Metrics()
        self.registry = ModelRegistry(settings, metrics)
        self.application = Application(settings, metrics, self.registry)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.application), base_url="http://limelight"
        )

    async def __aenter__(self) -> "Served":
        self._events: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._sent: asyncio.Queue[Any] = asyncio.Queue()
        self._task = asyncio.create_task(
            self.application({"type": "lifespan"}, self._events.get, self._sent.put)
        )
        await self._events.put({"type": "lifespan.startup"})
        assert (await self._sent.get())["type"] == "lifespan.startup.complete"
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.http.aclose()
        await self._events.put({"type": "lifespan.shutdown"})
        assert (await self._sent.get())["type"] == "lifespan.shutdown.complete"
        await self._task


@pytest.fixture
async def served(zoo: Path) -> AsyncIterator[Served]:
    async with Served(Settings(models=zoo, default_model="colours", device="cpu")) as served:
        yield served


def break_engine(served: Served, monkeypatch: pytest.MonkeyPatch, value: float | None) -> None:
    """Make the network of `colours` fail, or return `value` everywhere."""

    class Broken:
        def run(self, names: Sequence[str], feed: dict[str, Any]) -> list[Any]:
            if value is None:
                raise RuntimeError("out of memory at 0xdeadbeef")
            return [np.full((len(feed["images"]), 3), value, np.float32) for _ in names]

    engine = served.registry.classifiers["colours"].engine
    monkeypatch.setattr(engine._sessions, "first", Broken())


@pytest.mark.parametrize("value", [None, float("nan")])
async def test_internal_error_is_a_500_without_details(
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    value: float | None,
) -> None:
    break_engine(served, monkeypatch, value)
    response = await served.http.post("/predict", content=PNG)
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "internal_error"
    assert "0xdeadbeef" not in response.text
    assert "POST /predict failed" in caplog.text


async def test_predictions_and_explanations_agree_for_small_and_large_uploads(
    served: Served,
) -> None:
    for body in (PNG, LARGE):
        prediction = await served.http.post("/predict", content=body)
        explanation = await served.http.post("/explain", content=body)
        assert prediction.json() == {
            k: v for k, v in explanation.json().items() if k not in ("cam", "view")
        }
        picture = await served.http.post("/explain?format=png", content=body)
        assert picture.headers["content-type"] == "image/png"


async def test_every_page_answers_get_and_head(served: Served) -> None:
    paths = ["/", "/models", "/models/digits", "/livez", "/readyz", "/healthz", "/metrics"]
    for path in [*paths, "/openapi.json"]:
        assert (await served.http.get(path)).status_code == 200
        head = await served.http.head(path)
        assert (head.status_code, head.content) == (200, b"")


async def test_errors_are_problems(served: Served) -> None:
    requests = {
        ("GET", "/nope"): 404,
        ("PUT", "/models"): 405,
        ("POST", "/predict?top_k=x"): 422,
        ("POST", "/explain?opacity=2"): 422,
        ("POST", "/explain?colormap=x"): 422,
        ("POST", "/explain?format=x"): 422,
        ("POST", "/explain?target=x"): 422,
        ("POST", "/explain?model=x"): 404,
    }
    for (method, path), status in requests.items():
        response = await served.http.request(method, path, content=PNG)
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
    allow = (await served.http.put("/models")).headers["allow"]
    assert allow == "GET, HEAD"


async def test_form_is_limited_to_max_bytes(zoo: Path) -> None:
    settings = Settings(models=zoo, default_model="colours", device="cpu", max_bytes=500)
    async with Served(settings) as served:
        fitting = await served.http.post("/predict", files={"image": ("a", PNG, "image/png")})
        assert fitting.status_code == 200
        large = await served.http.post("/predict", files={"image": ("a", PNG * 3)})
        assert large.json()["code"] == "body_too_large"
        nothing = await served.http.post("/predict", files={"other": ("a", PNG)})
        assert nothing.json()["code"] == "missing_image"
        broken = await served.http.post(
            "/predict", content=b"x", headers={"Content-Type": "multipart/form-data"}
        )
        assert broken.json()["code"] == "invalid_multipart"


async def test_client_that_disconnects_while_sending_is_counted_as_499(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    messages: Iterator[dict[str, Any]] = iter(
        [
            {"type": "http.request", "body": PNG[:50], "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: Any) -> None:
        raise AssertionError("an answer was sent to a disconnected client")

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "query_string": b"",
        "headers": [],
        "server": ("limelight", 80),
    }
    await served.application(scope, receive, send)
    assert 'code="499",model="colours",route="/predict"' in (await served.http.get("/metrics")).text
    assert caplog.text == ""


async def test_queue_of_an_unloaded_model_is_shown_as_empty(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, dict[str, float]] = {}
    monkeypatch.setattr(
        served.application._metrics.models,
        "set_queue",
        lambda name, **found: shown.update({name: found}),
    )
    served.application._gauges.update()
    assert "colours" in shown
    monkeypatch.setattr(ModelRegistry, "versions", [])
    served.application._gauges.update()
    assert shown["colours"] == {"depth": 0, "age_s": 0.0}
    shown.clear()
    served.application._gauges.update()
    assert not shown


async def test_websocket_is_closed(served: Served) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await served.application({"type": "websocket"}, send, send)  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1000}]


async def test_service_is_not_ready_before_the_server_starts(zoo: Path) -> None:
    served = Served(Settings(models=zoo, default_model="colours", device="cpu"))
    response = await served.http.get("/readyz")
    assert response.status_code == 503
    assert "being loaded" in response.json()["detail"]
    assert (await served.http.post("/predict", content=PNG)).status_code == 503
    await served.http.aclose()


async def test_missing_default_model_is_named(zoo: Path) -> None:
    async with Served(Settings(models=zoo, default_model="cats", device="cpu")) as served:
        detail = (await served.http.get("/readyz")).json()["detail"]
        assert "LIMELIGHT_DEFAULT_MODEL is 'cats'" in detail


async def test_digits_is_the_default_model_without_a_setting(zoo: Path) -> None:
    async with Served(Settings(models=zoo, device="cpu")) as served:
        assert (await served.http.post("/predict", content=PNG)).json()["model"] == "digits"


async def test_first_model_is_the_default_without_a_setting_and_digits(tmp_path: Path) -> None:
    write_artifact(tmp_path)
    write_artifact(tmp_path, name="photos")
    async with Served(Settings(models=tmp_path, device="cpu")) as served:
        assert (await served.http.get("/readyz")).status_code == 200
        assert (await served.http.post("/predict", content=PNG)).json()["model"] == "colours"


async def test_default_model_that_cannot_be_loaded_is_not_replaced(tmp_path: Path) -> None:
    write_artifact(tmp_path, name="photos")
    (write_artifact(tmp_path) / "model.onnx").write_bytes(b"")
    async with Served(Settings(models=tmp_path, device="cpu")) as served:
        assert (await served.http.post("/predict", content=PNG)).status_code == 503
        photos = await served.http.post("/predict?model=photos", content=PNG)
        assert photos.json()["model"] == "photos"


async def test_other_models_are_served_beside_a_broken_artefact(tmp_path: Path) -> None:
    write_artifact(tmp_path)
    (write_artifact(tmp_path, name="other") / "model.onnx").write_bytes(b"")
    async with Served(Settings(models=tmp_path, default_model="colours", device="cpu")) as served:
        assert (await served.http.get("/readyz")).status_code == 503
        assert (await served.http.post("/predict?model=other", content=PNG)).status_code == 503
        assert (await served.http.post("/predict", content=PNG)).status_code == 200


async def test_unexpected_loading_error_is_logged_and_the_service_stays_alive(
    zoo: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load(folder: Path) -> None:
        raise RuntimeError("surprise")

    monkeypatch.setattr("service.inference.model_loader.load_artifact", load)
    async with Served(Settings(models=zoo, default_model="colours", device="cpu")) as served:
        detail = (await served.http.get("/readyz")).json()["detail"]
        assert "colours cannot be loaded" in detail
    assert "surprise" in caplog.text


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMELIGHT_MAX_BYTES", "123")
    monkeypatch.setenv("LIMELIGHT_DEVICE", "cpu")
    settings = Settings()
    assert (settings.max_bytes, settings.device) == (123, "cpu")


def test_bentoml_usage_tracking_is_off_although_bentoml_has_decided_before() -> None:
    code = (
        "import os; os.environ.pop('BENTOML_DO_NOT_TRACK', None);"
        "from bentoml._internal.utils.analytics.usage_stats import do_not_track;"
        "assert not do_not_track(); import service.bento; assert do_not_track();"
        "print(type(service.bento.Limelight.to_asgi()).__name__)"
    )
    # BentoML emits warnings when it is imported, so this runs in a separate process.
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "Application"


async def test_request_leaves_no_reference_cycles(served: Served) -> None:
    """A cycle would keep the body in memory until a collection, which pauses all requests."""
    answered: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": PNG}

    async def send(message: Any) -> None:
        answered.append(message.get("status", 0))

    async def ask(path: str) -> None:
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []}
        await served.application(scope, receive, send)

    for path in ("/predict", "/explain"):
        await ask(path)
        gc.collect()
        gc.disable()
        try:
            await asyncio.gather(*(ask(path) for _ in range(20)))
            assert gc.collect() < 20
        finally:
            gc.enable()
    assert answered.count(200) == 42
