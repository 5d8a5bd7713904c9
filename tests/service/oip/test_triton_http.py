"""Triton's HTTP clients against `bentoml serve`."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.http import aio
from tritonclient.utils import InferenceServerException

from limelight.artifact.store import Artifact
from tests.service.oip.kit import GIVEN, names, pixels, result_matches
from tests.serving_kit import COLOUR_NETWORK, COLOURS, Server, colour_image, encode


@pytest.fixture(scope="module")
def remote(server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(urlsplit(server.url).netloc) as remote:
        yield remote


def images_input(images_nhwc: np.ndarray, *, binary: bool = True) -> Any:
    tensor = triton.InferInput("images", list(images_nhwc.shape), "UINT8")
    return tensor.set_data_from_numpy(images_nhwc, binary_data=binary)


def bytes_input(bodies: list[bytes]) -> Any:
    tensor = triton.InferInput("image_bytes", [len(bodies), 1], "BYTES")
    return tensor.set_data_from_numpy(np.array(bodies, object).reshape(-1, 1))


def test_health_and_metadata(remote: Any) -> None:
    assert remote.is_server_live()
    assert remote.is_server_ready()
    assert remote.is_model_ready("colours")
    assert remote.is_model_ready("colours", "1")
    assert not remote.is_model_ready("colours", "2")
    assert not remote.is_model_ready("nope")
    assert remote.get_server_metadata()["name"] == "limelight"
    metadata = remote.get_model_metadata("digits", "12")
    assert metadata["inputs"][0] == {
        "name": "images",
        "datatype": "UINT8",
        "shape": [-1, 28, 28, 1],
    }
    assert remote.get_model_config("colours")["max_batch_size"] == 32
    assert [model["name"] for model in remote.get_model_repository_index()] == ["colours", "digits"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
def test_inference_matches_numpy_in_every_encoding(
    remote: Any, rng: np.random.Generator, binary_in: bool, binary_out: bool, packing: str | None
) -> None:
    images_nhwc = pixels(rng, 3)
    asked = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in GIVEN]
    result = remote.infer(
        "colours",
        [images_input(images_nhwc, binary=binary_in)],
        model_version="1",
        outputs=asked,
        request_id="a call",
        request_compression_algorithm=packing,
        response_compression_algorithm=packing,
    )
    result_matches(result, images_nhwc)
    answer = result.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == (
        *("a call", "colours"),
        "1",
    )


def test_every_output_of_the_graph_is_returned_by_default(
    remote: Any, colours: Artifact, rng: np.random.Generator
) -> None:
    images_nhwc = pixels(rng)
    result = remote.infer("colours", [images_input(images_nhwc)])
    answered = [output["name"] for output in result.get_response()["outputs"]]
    assert answered == names(colours)
    result_matches(result, images_nhwc)


def test_encoded_images_and_overlays_are_bytes_tensors(
    remote: Any, client: httpx.Client, rng: np.random.Generator
) -> None:
    bodies = [encode(colour_image(rng, size), "JPEG") for size in (8, 200)]
    asked = [triton.InferRequestedOutput(name) for name in ("probabilities", "overlay_png")]
    parameters = {"target": "green", "colormap": "jet"}
    result = remote.infer("colours", [bytes_input(bodies)], outputs=asked, parameters=parameters)
    query = "/explain?format=png&target=green&colormap=jet"
    for row, body in enumerate(bodies):
        prediction = client.post("/predict", content=body).json()
        assert prediction["index"] == result.as_numpy("probabilities")[row].argmax()
        picture = client.post(query, content=body).content
        assert result.as_numpy("overlay_png")[row, 0] == picture


@pytest.mark.parametrize("binary", [True, False])
def test_classification_names_the_classes(
    remote: Any, rng: np.random.Generator, binary: bool
) -> None:
    images_nhwc = pixels(rng)
    asked = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=1)
    result = remote.infer("colours", [images_input(images_nhwc)], outputs=[asked])
    (text,) = result.as_numpy("probabilities").ravel()
    _, index, label = (text if isinstance(text, str) else text.decode()).split(":")
    top = COLOUR_NETWORK.probabilities(images_nhwc)[0].argmax()
    assert (int(index), label) == (top, COLOURS[top])


def test_rejections_are_raised_with_their_status(remote: Any, rng: np.random.Generator) -> None:
    images_nhwc = pixels(rng)
    asked = [triton.InferRequestedOutput("nope")]
    with pytest.raises(InferenceServerException, match="unexpected inference output") as rejected:
        remote.infer("colours", [images_input(images_nhwc)], outputs=asked)
    assert rejected.value.status() == "400"
    with pytest.raises(InferenceServerException, match="no model 'nope'"):
        remote.infer("nope", [images_input(images_nhwc)])
    with pytest.raises(InferenceServerException, match="unexpected shape"):
        remote.infer("colours", [images_input(images_nhwc[:, :4])])


def test_raw_body_of_pixels_is_accepted(server: Server, rng: np.random.Generator) -> None:
    """Follows the client's example for raw requests: no JSON, and a header length of 0."""
    images_nhwc = pixels(rng)
    response = httpx.post(
        f"{server.url}/v2/models/colours/infer",
        content=images_nhwc.tobytes(),
        headers={"Inference-Header-Content-Length": "0"},
    )
    parse = triton.InferenceServerClient.parse_response_body
    length = int(response.headers["Inference-Header-Content-Length"])
    result_matches(parse(response.content, header_length=length), images_nhwc)


def test_body_generated_by_the_client_is_accepted(
    client: httpx.Client, rng: np.random.Generator
) -> None:
    images_nhwc = pixels(rng, 2)
    body, length = triton.InferenceServerClient.generate_request_body([images_input(images_nhwc)])
    headers = {"Inference-Header-Content-Length": str(length)}
    response = client.post("/v2/models/colours/infer", content=body, headers=headers)
    length = int(response.headers["Inference-Header-Content-Length"])
    result_matches(
        triton.InferenceServerClient.parse_response_body(response.content, header_length=length),
        images_nhwc,
    )


def test_concurrent_requests_get_their_own_results(
    server: Server, rng: np.random.Generator
) -> None:
    batches = [pixels(rng, size) for size in (1, 2, 5) * 4]
    address = urlsplit(server.url).netloc
    with triton.InferenceServerClient(address, concurrency=4) as remote:
        calls = [remote.async_infer("colours", [images_input(batch)]) for batch in batches]
        for call, batch in zip(calls, batches, strict=True):
            result_matches(call.get_result(), batch)


async def test_async_client_gets_health_metadata_and_results(
    server: Server, rng: np.random.Generator
) -> None:
    batches = [pixels(rng, size) for size in (1, 2, 5) * 4]
    async with aio.InferenceServerClient(urlsplit(server.url).netloc) as remote:
        assert await remote.is_server_ready()
        assert (await remote.get_model_metadata("colours"))["versions"] == ["1"]
        answers = await asyncio.gather(
            *(remote.infer("colours", [images_input(batch)]) for batch in batches)
        )
    for answer, batch in zip(answers, batches, strict=True):
        result_matches(answer, batch)


def test_statistics_sum_over_all_workers(server: Server, rng: np.random.Generator) -> None:
    def count() -> int:
        model = httpx.get(f"{server.url}/v2/models/digits/stats").json()["model_stats"][0]
        return int(model["inference_stats"]["success"]["count"])

    tensor = triton.InferInput("images", [1, 28, 28, 1], "UINT8")
    tensor.set_data_from_numpy(np.zeros((1, 28, 28, 1), np.uint8))
    before = count()
    for _ in range(8):  # each over a new connection, which any worker may accept
        with triton.InferenceServerClient(urlsplit(server.url).netloc) as remote:
            remote.infer("digits", [tensor])
    for _ in range(100):
        if count() == before + 8:
            break
    assert count() == before + 8
    with triton.InferenceServerClient(urlsplit(server.url).netloc) as remote:
        statistics = remote.get_inference_statistics("digits")
    assert json.dumps(statistics)
    assert statistics["model_stats"][0]["execution_count"] >= 8
