"""Metadata, health, statistics and errors of the protocol over HTTP."""

import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from limelight.artifact.store import Artifact
from service.request_context import RequestContext
from tests.service.oip.kit import (
    INFER,
    expect_error,
    images_input,
    names,
    pixels,
    request,
)
from tests.service.test_app import Served, break_engine
from tests.serving_kit import encode


async def test_server_metadata_and_health_are_returned(http: httpx.AsyncClient) -> None:
    server = (await http.get("/v2")).json()
    assert server["name"] == "limelight"
    assert "binary_tensor_data" in server["extensions"]
    assert (await http.get("/v2/health/live")).json() == {"live": True}
    assert (await http.get("/v2/health/ready")).json() == {"ready": True}


async def test_model_metadata_is_the_same_with_and_without_the_version(
    http: httpx.AsyncClient, colours: Artifact
) -> None:
    model = (await http.get("/v2/models/colours")).json()
    assert (await http.get("/v2/models/colours/versions/1")).json() == model
    assert (model["name"], model["versions"]) == ("colours", ["1"])
    assert model["platform"] == "onnxruntime_onnx"
    inputs, tensors = (
        {t["name"]: (t["datatype"], t["shape"]) for t in model[side]}
        for side in ("inputs", "outputs")
    )
    assert inputs == {"images": ("UINT8", [-1, 8, 8, 3]), "image_bytes": ("BYTES", [-1, 1])}
    assert list(tensors) == [*names(colours), "layercams", "overlay_png"]
    assert tensors["logits"] == tensors["probabilities"] == ("FP32", [-1, 3])
    assert tensors["cams"] == tensors["features"] == ("FP32", [-1, 3, 4, 4])
    assert tensors["overlay_png"] == ("BYTES", [-1, 1])
    for path in ("ready", "versions/1/ready"):
        answer = (await http.get(f"/v2/models/colours/{path}")).json()
        assert answer == {"name": "colours", "ready": True}


async def test_version_minus_1_is_the_newest(
    http: httpx.AsyncClient, rng: np.random.Generator
) -> None:
    newest = "/v2/models/colours/versions/-1"
    assert (await http.get(newest)).json() == (await http.get("/v2/models/colours")).json()
    assert (await http.get(f"{newest}/ready")).json() == {"name": "colours", "ready": True}
    (model,) = (await http.get(f"{newest}/stats")).json()["model_stats"]
    assert model["version"] == "1"
    answer = await http.post(f"{newest}/infer", json=request(images_input(pixels(rng))))
    assert (answer.status_code, answer.json()["model_version"]) == (200, "1")


@pytest.mark.parametrize("version", ["0", "2", "-2", "x", "1.0", "latest", "9" * 200])
@pytest.mark.parametrize("suffix", ["", "/ready", "/config", "/stats", "/infer"])
async def test_unknown_version_is_named_with_the_served_one(
    http: httpx.AsyncClient, version: str, suffix: str
) -> None:
    path = f"/v2/models/colours/versions/{version}{suffix}"
    answer = await http.request("POST" if suffix == "/infer" else "GET", path)
    why = expect_error(answer, 404)
    assert f"version {version[:20]} is not found: version 1 is served" in why
    assert len(why) < 200


async def test_the_configuration_agrees_with_the_metadata(http: httpx.AsyncClient) -> None:
    model = (await http.get("/v2/models/digits")).json()
    config = (await http.get("/v2/models/digits/versions/12/config")).json()
    assert (await http.get("/v2/models/digits/config")).json() == config
    assert config["max_batch_size"] == 8
    for side in ("input", "output"):
        assert [[-1, *tensor["dims"]] for tensor in config[side]] == [
            tensor["shape"] for tensor in model[f"{side}s"]
        ]


async def test_the_index_lists_every_model_and_why_it_is_not_served(
    http: httpx.AsyncClient, served: Served
) -> None:
    both = (await http.post("/v2/repository/index")).json()
    assert [(one["name"], one["version"], one["state"]) for one in both] == [
        ("colours", "1", "READY"),
        ("digits", "12", "READY"),
    ]
    served.registry._refused["broken/3"] = "its file is damaged"
    every = (await http.post("/v2/repository/index", content=b"{}")).json()
    assert every[2] == {
        "name": "broken",
        "version": "3",
        "state": "UNAVAILABLE",
        "reason": "its file is damaged",
    }
    ready = await http.post("/v2/repository/index", content=b'{"ready": true}')
    assert ready.json() == both
    for body in (b"{", b"[]", b'{"ready": 1}'):
        expect_error(await http.post("/v2/repository/index", content=body), 400)


async def test_errors_have_the_protocols_form(
    http: httpx.AsyncClient, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = json.dumps(request(images_input(np.zeros((1, 8, 8, 3), np.uint8))))
    for method, path, status in (
        ("GET", "/v2/nope", 404),
        ("GET", "/v2/models/nope", 404),
        ("GET", "/v2/models/nope/ready", 404),
        ("GET", "/v2/models//ready", 404),
        ("GET", "/v2/models/colours/versions/2", 404),
        ("GET", "/v2/models/colours/versions/2/ready", 404),
        ("GET", "/v2/models/colours/versions/x/config", 404),
        ("GET", "/v2/models/colours/versions/2/stats", 404),
        ("POST", "/v2/models/nope/infer", 404),
        ("POST", "/v2/models/colours/versions/2/infer", 404),
        ("GET", INFER, 405),
        ("POST", "/v2/health/live", 405),
    ):
        expect_error(await http.request(method, path, content=good), status)
    assert (await http.get(INFER)).headers["allow"] == "POST"
    expect_error(await http.post(INFER, content=b" " * 300_001), 413)
    late = await http.post(INFER, content=good, headers={"X-Timeout-Ms": "x"})
    assert "X-Timeout-Ms" in expect_error(late, 400)
    unknown = await http.post(INFER, content=b"", headers={"Content-Encoding": "br"})
    expect_error(unknown, 415)
    break_engine(served, monkeypatch, None)
    assert "0xdeadbeef" not in expect_error(await http.post(INFER, content=good), 500)


async def test_timeout_parameter_limits_the_request(
    http: httpx.AsyncClient, rng: np.random.Generator
) -> None:
    tensor = images_input(pixels(rng))
    late = await http.post(INFER, json=request(tensor, parameters={"timeout": 1}))
    assert "too late" in expect_error(late, 503)
    for enough in (0, 5_000_000):
        body = request(tensor, parameters={"timeout": enough})
        assert (await http.post(INFER, json=body)).status_code == 200
    for odd in (-1, 1.5, "1", True):
        body = request(tensor, parameters={"timeout": odd})
        expect_error(await http.post(INFER, json=body), 400)


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": {"binary_data_output": 1}},
        {"outputs": [{"name": "logits", "parameters": {"binary_data": "yes"}}]},
        {"outputs": [{"name": "overlay_png", "parameters": {"classification": 1}}]},
        {"outputs": [{"name": "overlay_png", "parameters": {"target": "purple"}}]},
        {"outputs": [{"name": "overlay_png", "parameters": {"opacity": 2}}]},
        {"outputs": [{"name": "overlay_png", "parameters": {"colormap": 5}}]},
        {"outputs": [{"name": "logits", "parameters": {"shared_memory_region": "a"}}]},
        {"outputs": [{"name": "overlay_png", "parameters": {"shared_memory_byte_size": 9}}]},
        {"outputs": "logits"},
        {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": "x"}]},
    ],
)
async def test_invalid_parameter_is_rejected(
    http: httpx.AsyncClient, rng: np.random.Generator, changes: dict[str, Any]
) -> None:
    body = request(images_input(pixels(rng))) | changes
    expect_error(await http.post(INFER, json=body), 400)


@pytest.mark.parametrize("side", ["inputs", "outputs"])
async def test_shared_memory_is_rejected_with_words_on_either_side(
    http: httpx.AsyncClient, rng: np.random.Generator, side: str
) -> None:
    region = {"shared_memory_region": "a", "shared_memory_byte_size": 192}
    tensor = images_input(pixels(rng))
    body = request(tensor, outputs=[{"name": "logits"}])
    body[side][0]["parameters"] = region
    why = expect_error(await http.post(INFER, json=body), 400)
    assert f"{side[:-1]} {body[side][0]['name']!r}: shared memory is not supported" in why


async def test_damaged_image_is_a_client_error(http: httpx.AsyncClient) -> None:
    damaged = base64.b64encode(encode(Image.new("RGB", (9, 9)))[:40]).decode()
    huge = base64.b64encode(encode(Image.new("L", (7000, 7000)))).decode()
    for data, status in (
        ([damaged], 400),
        (["aGVsbG8="], 400),
        (["not base64"], 400),
        ([huge], 413),
    ):
        tensor = {"name": "image_bytes", "datatype": "BYTES", "shape": [1], "data": data}
        expect_error(await http.post(INFER, json=request(tensor)), status)


async def test_explanations_are_rejected_before_predictions(
    http: httpx.AsyncClient, served: Served, rng: np.random.Generator
) -> None:
    batcher = served.registry.classifiers["colours"].batcher
    tensor = images_input(pixels(rng))
    with batcher.admission.admit(RequestContext(), images=batcher.admission.max_queued // 2):
        shed = await http.post(INFER, json=request(tensor, outputs=[{"name": "cams"}]))
        expect_error(shed, 503)
        assert int(shed.headers["retry-after"]) >= 1
        kept = await http.post(INFER, json=request(tensor, outputs=[{"name": "logits"}]))
        assert kept.status_code == 200
    assert batcher.admission.admitted == 0


async def test_images_of_a_request_run_in_at_most_two_batches(
    http: httpx.AsyncClient, served: Served, rng: np.random.Generator
) -> None:
    sizes: list[int] = []
    batcher = served.registry.classifiers["colours"].batcher
    batcher._runner._observe = lambda size, seconds: sizes.append(size)
    await http.post(INFER, json=request(images_input(pixels(rng, 8))))
    assert sum(sizes) == 8
    assert len(sizes) <= 2  # the first image may start before the others arrive


async def test_statistics_count_the_requests(
    http: httpx.AsyncClient, rng: np.random.Generator
) -> None:
    for batch in (1, 3, 3):
        await http.post(INFER, json=request(images_input(pixels(rng, batch))))
    await http.post(INFER, json=request(images_input(pixels(rng), datatype="FP32")))
    for path in ("/v2/models/colours/stats", "/v2/models/colours/versions/1/stats"):
        (model,) = (await http.get(path)).json()["model_stats"]
        assert (model["name"], model["version"]) == ("colours", "1")
        assert model["inference_count"] == 7
        durations = model["inference_stats"]
        assert durations["success"]["count"] == 3
        assert durations["fail"]["count"] == 1
        for phase in ("queue", "compute_infer", "compute_output", "compute_input"):
            assert 0 < durations[phase]["ns"] < durations["success"]["ns"] * 2
        batches = {one["batch_size"]: one["compute_infer"] for one in model["batch_stats"]}
        assert sum(size * one["count"] for size, one in batches.items()) == 7
        assert model["execution_count"] == sum(one["count"] for one in batches.values())
        assert all(one["ns"] > 0 for one in batches.values())
        assert model["last_inference"] > 1_700_000_000_000
    both = (await http.get("/v2/models/stats")).json()["model_stats"]
    assert [model["inference_count"] for model in both] == [7, 0]


@pytest.mark.parametrize("action", ["load", "unload"])
async def test_without_keys_nobody_may_load_or_unload_a_model(
    http: httpx.AsyncClient, action: str
) -> None:
    answer = await http.post(f"/v2/repository/models/colours/{action}")
    assert answer.status_code == 403
    assert "use its management port (LIMELIGHT_ADMIN_PORT)" in answer.json()["error"]
    assert (await http.get("/v2/models/colours/ready")).status_code == 200
    assert "model_repository" not in (await http.get("/v2")).json()["extensions"]


async def test_metrics_are_labelled_with_routes_and_not_with_client_input(
    http: httpx.AsyncClient, rng: np.random.Generator
) -> None:
    body = request(images_input(pixels(rng)))
    for path in (INFER, "/v2/models/colours/versions/1/infer", "/v2/models/nope/infer", "/v2/x"):
        await http.post(path, json=body)
    text = (await http.get("/metrics")).text
    versioned = 'code="200",model="colours",route="/v2/models/{name}/versions/{version}/infer"'
    assert versioned in text
    assert 'code="404",model="none",route="/v2/models/{name}/infer"' in text
    assert 'route="other"' in text
    assert "nope" not in text


async def test_server_timing_lists_the_stages(
    http: httpx.AsyncClient, rng: np.random.Generator
) -> None:
    response = await http.post(INFER, json=request(images_input(pixels(rng, 2))))
    stages = [stage.split(";")[0] for stage in response.headers["server-timing"].split(", ")]
    assert list(dict.fromkeys(stages)) == ["read", "queue", "compute", "render"]
