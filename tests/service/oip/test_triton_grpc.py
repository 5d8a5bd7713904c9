"""Triton's gRPC clients and the published stubs against `bentoml serve`."""

import asyncio
import queue
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import aio, service_pb2

from service.oip.grpc.messages import METHODS, SERVICE
from tests.service.oip.kit import GIVEN, pixels, result_matches, rpc_message
from tests.service.telemetry.scraping import let_workers_count
from tests.serving_kit import COLOURS, Server, colour_image, encode

STREAM = f"/{SERVICE}/ModelStreamInfer"
ROUTE = f"/{SERVICE}/ModelInfer"


def images_input(images_nhwc: np.ndarray) -> Any:
    tensor = triton.InferInput("images", list(images_nhwc.shape), "UINT8")
    return tensor.set_data_from_numpy(images_nhwc)


def test_health_and_metadata(remote: Any) -> None:
    assert remote.is_server_live()
    assert remote.is_server_ready()
    assert remote.is_model_ready("colours", "1")
    assert not remote.is_model_ready("colours", "2")
    assert not remote.is_model_ready("nope")
    assert remote.get_server_metadata().name == "limelight"


def test_metadata_and_configuration_equal_those_over_http(
    remote: Any, client: httpx.Client
) -> None:
    metadata = remote.get_model_metadata("digits", as_json=True)
    for tensor in (*metadata["inputs"], *metadata["outputs"]):
        tensor["shape"] = [int(size) for size in tensor["shape"]]
    assert metadata == client.get("/v2/models/digits").json()
    config = remote.get_model_config("digits").config
    told = client.get("/v2/models/digits/config").json()
    assert (config.name, config.platform, config.backend) == (
        *(told["name"], told["platform"]),
        told["backend"],
    )
    assert config.max_batch_size == told["max_batch_size"] == 32
    assert [list(tensor.dims) for tensor in config.output] == [
        tensor["dims"] for tensor in told["output"]
    ]
    index = remote.get_model_repository_index().models
    assert [(model.name, model.version, model.state) for model in index] == [
        ("colours", "1", "READY"),
        ("digits", "12", "READY"),
    ]


def test_every_method_is_answered(remote: Any, grpc_address: str) -> None:
    """An empty request is answered, or its model is not found, or it takes a key to change it."""
    with grpc.insecure_channel(grpc_address) as channel:
        for name, method in METHODS.items():
            if method.client_streaming:
                continue
            call = channel.unary_unary(f"/{SERVICE}/{name}").future(b"")
            if name in ("RepositoryModelLoad", "RepositoryModelUnload"):
                assert call.code() == grpc.StatusCode.PERMISSION_DENIED
                continue
            assert call.code() in (grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND), name


def test_statistics_equal_those_over_http(
    remote: Any, client: httpx.Client, rng: np.random.Generator
) -> None:
    remote.infer("colours", [images_input(pixels(rng, 2))])
    let_workers_count()
    (found,) = remote.get_inference_statistics("colours", "1").model_stats
    (told,) = client.get("/v2/models/colours/stats").json()["model_stats"]
    for name in ("name", "version", "inference_count", "execution_count"):
        assert getattr(found, name) == told[name]
    for phase, duration in told["inference_stats"].items():
        assert getattr(found.inference_stats, phase).ns == duration["ns"]
    sizes = {entry.batch_size: entry.compute_infer.count for entry in found.batch_stats}
    assert sizes == {
        entry["batch_size"]: entry["compute_infer"]["count"] for entry in told["batch_stats"]
    }
    assert sizes[2] > 0
    every = remote.get_inference_statistics().model_stats
    assert [model.name for model in every] == ["colours", "digits"]


@pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
@pytest.mark.parametrize("batch", [1, 7, 32])
def test_inference_matches_numpy_with_every_compression(
    remote: Any, rng: np.random.Generator, packing: str | None, batch: int
) -> None:
    images_nhwc = pixels(rng, batch)
    result = remote.infer(
        "colours",
        [images_input(images_nhwc)],
        model_version="1",
        outputs=[triton.InferRequestedOutput(name) for name in GIVEN],
        request_id="a call",
        compression_algorithm=packing,
    )
    result_matches(result, images_nhwc)
    answer = result.get_response()
    assert (answer.id, answer.model_name, answer.model_version) == ("a call", "colours", "1")


def test_version_minus_1_is_the_newest(remote: Any, stub: Any, rng: np.random.Generator) -> None:
    assert remote.is_model_ready("colours", "-1")
    assert remote.get_model_metadata("colours", "-1").versions == ["1"]
    images_nhwc = pixels(rng)
    message = rpc_message(images_nhwc, model_version="-1")
    message.raw_input_contents.append(images_nhwc.tobytes())
    assert stub.ModelInfer(message).model_version == "1"


def test_answer_and_error_have_the_digest_as_metadata(
    stub: Any, client: httpx.Client, rng: np.random.Generator
) -> None:
    listed = client.get("/models/colours").json()["digest"]
    images_nhwc = pixels(rng)
    message = rpc_message(images_nhwc)
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(message)
    assert dict(refused.value.trailing_metadata())["x-model-digest"] == listed
    message.raw_input_contents.append(images_nhwc.tobytes())
    _, call = stub.ModelInfer.with_call(message)
    assert dict(call.trailing_metadata())["x-model-digest"] == listed


def test_typed_contents_are_read_like_raw_ones(stub: Any, rng: np.random.Generator) -> None:
    images_nhwc = pixels(rng, 2)
    typed, raw = rpc_message(images_nhwc), rpc_message(images_nhwc)
    typed.inputs[0].contents.uint_contents.extend(images_nhwc.ravel().tolist())
    raw.raw_input_contents.append(images_nhwc.tobytes())
    assert stub.ModelInfer(typed) == stub.ModelInfer(raw)
    body = encode(colour_image(rng, 30))
    encoded = service_pb2.ModelInferRequest(model_name="colours")
    encoded.inputs.add(name="image_bytes", datatype="BYTES", shape=[1, 1])
    encoded.inputs[0].contents.bytes_contents.append(body)
    framed = service_pb2.ModelInferRequest()
    framed.CopyFrom(encoded)
    framed.inputs[0].ClearField("contents")
    framed.raw_input_contents.append(len(body).to_bytes(4, "little") + body)
    assert stub.ModelInfer(encoded) == stub.ModelInfer(framed)


def test_encoded_images_give_the_same_classes_and_overlays_as_over_http(
    remote: Any, client: httpx.Client, rng: np.random.Generator
) -> None:
    bodies = [encode(colour_image(rng, size), "JPEG") for size in (8, 200)]
    tensor = triton.InferInput("image_bytes", [2, 1], "BYTES")
    tensor.set_data_from_numpy(np.array(bodies, object).reshape(-1, 1))
    asked = [
        triton.InferRequestedOutput("probabilities", class_count=1),
        triton.InferRequestedOutput("overlay_png"),
    ]
    parameters = {"target": "green", "opacity": 0.25}
    result = remote.infer("colours", [tensor], outputs=asked, parameters=parameters)
    for row, body in enumerate(bodies):
        prediction = client.post("/predict", content=body).json()
        _, index, label = result.as_numpy("probabilities")[row, 0].decode().split(":")
        assert (int(index), label) == (prediction["index"], prediction["label"])
        assert label in COLOURS
        picture = client.post("/explain?format=png&target=green&opacity=0.25", content=body)
        assert result.as_numpy("overlay_png")[row, 0] == picture.content


def test_deadline_of_the_caller_is_respected(stub: Any, rng: np.random.Generator) -> None:
    """The request takes longer than the deadline, because overlays of noise are slow to encode."""
    request = service_pb2.ModelInferRequest(model_name="colours")
    request.inputs.add(name="image_bytes", datatype="BYTES", shape=[16, 1])
    request.inputs[0].contents.bytes_contents.extend(
        encode(colour_image(rng, 200), "JPEG") for _ in range(16)
    )
    request.outputs.add(name="overlay_png")
    with pytest.raises(grpc.RpcError) as late:
        stub.ModelInfer(request, timeout=0.005)
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    started = time.perf_counter()
    assert stub.ModelInfer(request, timeout=10).model_name == "colours"
    assert time.perf_counter() - started > 0.01


def test_stream_answers_in_order_and_continues_after_a_rejection(
    remote: Any, client: httpx.Client, rng: np.random.Generator
) -> None:
    digest = client.get("/models/colours").json()["digest"]
    batches = [pixels(rng, size) for size in (1, 5, 2, 1, 32, 3) * 3]
    answers: queue.Queue[Any] = queue.Queue()
    remote.start_stream(lambda result, error: answers.put((result, error)))
    for number, batch in enumerate(batches):
        model = "nope" if number == 4 else "colours"
        remote.async_stream_infer(model, [images_input(batch)], request_id=str(number))
    for number, batch in enumerate(batches):
        result, error = answers.get(timeout=10)
        if number == 4:
            assert "no model 'nope'" in str(error)
            continue
        assert error is None
        assert result.get_response().id == str(number)
        parameters = result.get_response().parameters
        assert parameters["triton_final_response"].bool_param
        assert parameters["x-model-digest"].string_param == digest
        result_matches(result, batch)
    remote.stop_stream()


async def test_async_client_gets_results_and_streams(
    remote: Any, grpc_address: str, rng: np.random.Generator
) -> None:
    batches = [pixels(rng, size) for size in (1, 2, 5) * 4]

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for batch in batches:
            yield {"model_name": "colours", "inputs": [images_input(batch)]}

    async with aio.InferenceServerClient(grpc_address) as other:
        assert await other.is_server_ready()
        answers = await asyncio.gather(
            *(other.infer("colours", [images_input(batch)]) for batch in batches)
        )
        for answer, batch in zip(answers, batches, strict=True):
            result_matches(answer, batch)
        streamed = [pair async for pair in other.stream_infer(requests())]
    for (answer, error), batch in zip(streamed, batches, strict=True):
        assert error is None
        result_matches(answer, batch)


def test_grpc_health_service_reports_serving(remote: Any, grpc_address: str) -> None:
    serving = health_pb2.HealthCheckResponse.SERVING
    with grpc.insecure_channel(grpc_address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "inference.GRPCInferenceService"):
            request = health_pb2.HealthCheckRequest(service=name)
            assert health.Check(request).status == serving
            watch = health.Watch(request, timeout=10)
            assert next(watch).status == serving
            watch.cancel()
        with pytest.raises(grpc.RpcError) as rejected:
            health.Check(health_pb2.HealthCheckRequest(service="nope"))
        assert rejected.value.code() == grpc.StatusCode.NOT_FOUND


def test_calls_are_counted_as_requests(
    stub: Any, client: httpx.Client, rng: np.random.Generator
) -> None:
    def count(code: int) -> float:
        labels = f'code="{code}",model="colours",route="{ROUTE}",version="1"'
        line = f"limelight_requests_total{{{labels}}} "
        text = client.get("/metrics").text
        return sum(float(row[len(line) :]) for row in text.splitlines() if row.startswith(line))

    let_workers_count()
    before = count(200), count(400)
    images_nhwc = pixels(rng)
    stub.ModelInfer(rpc_message(images_nhwc, raw_input_contents=[images_nhwc.tobytes()]))
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(rpc_message(images_nhwc, raw_input_contents=[b""]))
    let_workers_count()
    assert (count(200), count(400)) == (before[0] + 1, before[1] + 1)


def test_log_contains_no_errors(server: Server) -> None:
    """Runs last: no test above caused an internal error of the service."""
    assert "Traceback" not in server.log()
    assert "[ERROR]" not in server.log()
