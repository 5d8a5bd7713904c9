"""Input and output tensors over HTTP, without a client library: JSON, binary and mixed."""

import base64
import contextlib
import io
import json
import time
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from PIL import Image

from limelight.artifact.store import Artifact
from service.oip.tensors import read_base64
from tests.service.oip.kit import (
    INFER,
    LENGTH,
    binary,
    expect_error,
    images_input,
    matches,
    names,
    outputs,
    pixels,
    request,
)
from tests.serving_kit import COLOUR_NETWORK, COLOURS, colour_image, encode

BINARY = {"binary_data": True}


@pytest.mark.parametrize("batch", [1, 3, 8])
async def test_pixels_in_json_return_every_output_of_the_graph(
    http: httpx.AsyncClient, colours: Artifact, rng: np.random.Generator, batch: int
) -> None:
    images_nhwc = pixels(rng, batch)
    body = request(images_input(images_nhwc), id="call 7")
    response = await http.post(INFER, json=body)
    found = outputs(response)
    assert list(found) == names(colours)
    matches(found, images_nhwc)
    tree = response.json()
    assert (tree["model_name"], tree["model_version"], tree["id"]) == ("colours", "1", "call 7")
    nested = request(images_input(images_nhwc, data=images_nhwc.tolist()))
    again = await http.post("/v2/models/colours/versions/1/infer", json=nested)
    assert again.json()["outputs"] == tree["outputs"]
    assert "id" not in again.json()


async def test_layercams_are_returned_only_on_request(
    http: httpx.AsyncClient, colours: Artifact, rng: np.random.Generator
) -> None:
    images_nhwc = pixels(rng, 3)
    assert "layercams" not in names(colours)
    wanted = [{"name": "layercams"}, {"name": "cams"}]
    response = await http.post(INFER, json=request(images_input(images_nhwc), outputs=wanted))
    found = outputs(response)
    assert list(found) == ["layercams", "cams"]
    matches(found, images_nhwc)


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize(
    ("asked", "parameters", "in_binary"),
    [
        ([{"name": "logits"}, {"name": "cams"}], {}, set()),
        ([{"name": "cams", "parameters": BINARY}], {}, {"cams"}),
        ([{"name": "cams", "parameters": BINARY}, {"name": "logits"}], {}, {"cams"}),
        (
            [{"name": "logits", "parameters": {"binary_data": False}}, {"name": "probabilities"}],
            {"binary_data_output": True},
            {"probabilities"},
        ),
        (
            [],
            {"binary_data_output": True},
            None,
        ),
    ],
)
async def test_outputs_are_encoded_as_requested(
    http: httpx.AsyncClient,
    rng: np.random.Generator,
    binary_in: bool,
    asked: list[dict[str, Any]],
    parameters: dict[str, Any],
    in_binary: set[str] | None,
    colours: Artifact,
) -> None:
    """`in_binary` of None stands for every output that is not expensive."""
    in_binary = set(names(colours)) if in_binary is None else in_binary
    images_nhwc = pixels(rng, 2)
    header = request(images_input(images_nhwc), outputs=asked, parameters=parameters)
    blobs = []
    if binary_in:
        blobs = [images_nhwc.tobytes()]
        del header["inputs"][0]["data"]
        header["inputs"][0]["parameters"] = {"binary_data_size": len(blobs[0])}
    body, headers = binary(header, *blobs)
    response = await http.post(INFER, content=body, headers=headers)
    found = outputs(response)
    matches(found, images_nhwc)
    if asked:
        assert list(found) == [output["name"] for output in asked]
    assert (LENGTH in response.headers) == bool(in_binary)
    media_type = "application/octet-stream" if in_binary else "application/json"
    assert response.headers["content-type"] == media_type
    head = json.loads(response.content[: int(response.headers.get(LENGTH, "1000000"))])
    assert {tensor["name"] for tensor in head["outputs"] if "data" not in tensor} == in_binary


async def test_encoded_images_are_decoded_like_uploads(
    http: httpx.AsyncClient, rng: np.random.Generator
) -> None:
    bodies = [
        encode(colour_image(rng, 300), "JPEG"),
        encode(colour_image(rng)),
        encode(colour_image(rng, 40), "WEBP", lossless=True),
    ]
    expected = []
    for body in bodies:
        answer = (await http.post("/predict?top_k=3", content=body)).json()
        scores = {score["index"]: score["probability"] for score in answer["scores"]}
        expected.append([scores[index] for index in range(3)])
    elements = b"".join(len(body).to_bytes(4, "little") + body for body in bodies)
    tensor = {"name": "image_bytes", "datatype": "BYTES", "shape": [3, 1]}
    in_binary = tensor | {"parameters": {"binary_data_size": len(elements)}}
    text = tensor | {"shape": [3], "data": [base64.b64encode(body).decode() for body in bodies]}
    asked = [{"name": "probabilities"}]
    for body, headers in (
        binary(request(in_binary, outputs=asked), elements),
        binary(request(text, outputs=asked)),
    ):
        found = outputs(await http.post(INFER, content=body, headers=headers))
        np.testing.assert_array_equal(found["probabilities"], np.array(expected, np.float32))


def _spellings(body: bytes) -> dict[str, str]:
    """Return an image as base64, in the forms that clients send."""
    plain = base64.b64encode(body).decode()
    url_safe = base64.urlsafe_b64encode(body).decode()
    return {
        "plain": plain,
        "without padding": plain.rstrip("="),
        "url-safe": url_safe,
        "url-safe without padding": url_safe.rstrip("="),
        "wrapped": base64.encodebytes(body).decode(),
        "wrapped with CRLF": "\r\n".join(plain[at : at + 64] for at in range(0, len(plain), 64)),
        "data URL": f"data:image/png;base64,{plain}",
        "data URL in capitals": f"DATA:;BASE64,{plain}",
        "data URL with a parameter": f"data:image/png;name=a.png;base64,{plain}",
        "escaped data URL": f"data:image/png;base64,{quote(plain, safe='')}",
    }


@pytest.mark.parametrize("spelling", _spellings(b""))
async def test_base64_may_have_any_of_its_usual_forms(
    http: httpx.AsyncClient, rng: np.random.Generator, spelling: str
) -> None:
    body = encode(colour_image(rng, 20))
    text = _spellings(body + bytes(-len(body) % 3 + 2))[spelling]  # its plain form is padded
    tensor = {"name": "image_bytes", "datatype": "BYTES", "shape": [1], "data": [text]}
    asked = request(tensor, outputs=[{"name": "probabilities"}])
    found = outputs(await http.post(INFER, json=asked))["probabilities"]
    answer = (await http.post("/predict?top_k=3", content=body)).json()
    expected = {score["index"]: score["probability"] for score in answer["scores"]}
    assert found[0].tolist() == pytest.approx([expected[index] for index in range(3)])


@pytest.mark.parametrize(
    "text",
    [
        *("data:image/png,abcd", "data:image/png;base64", "data:;base64,ab%", "AB==CD", "AB=C"),
        *("abcd\x00", "äbcd", "ab+/*", "A", "====", "data:"),
    ],
)
async def test_text_that_is_not_base64_is_rejected(http: httpx.AsyncClient, text: str) -> None:
    tensor = {"name": "image_bytes", "datatype": "BYTES", "shape": [1], "data": [text]}
    assert "base64" in expect_error(await http.post(INFER, json=request(tensor)), 400)


@pytest.mark.parametrize("text", ["%41", "%", "%4", "A\n"])
def test_base64_of_any_text_takes_little_time(text: str) -> None:
    started = time.process_time()
    with contextlib.suppress(ValueError):
        read_base64("data:;base64," + text * (10_000_000 // len(text)))
    assert time.process_time() - started < 1


@pytest.mark.parametrize("binary_out", [False, True])
async def test_overlay_equals_that_of_explain(
    http: httpx.AsyncClient, rng: np.random.Generator, binary_out: bool
) -> None:
    body = encode(colour_image(rng, 50))
    query = "format=png&target=blue&opacity=0.3&colormap=magma"
    expected = (await http.post(f"/explain?{query}", content=body)).content
    style = {"target": "blue", "opacity": 0.3, "colormap": "magma"}
    tensor = {
        "name": "image_bytes",
        "datatype": "BYTES",
        "shape": [1, 1],
        "data": [base64.b64encode(body).decode()],
    }
    wanted = {"name": "overlay_png", "parameters": {"binary_data": binary_out} | style}
    found = outputs(await http.post(INFER, json=request(tensor, outputs=[wanted])))
    (picture,) = found["overlay_png"]
    assert (picture if binary_out else base64.b64decode(picture)) == expected
    wanted["parameters"] = {"binary_data": True, "colormap": "magma"}
    both = request(tensor, outputs=[wanted], parameters=style | {"colormap": "jet"})
    assert outputs(await http.post(INFER, json=both))["overlay_png"] == [expected]


async def test_overlay_of_raw_pixels_has_their_size(
    http: httpx.AsyncClient, rng: np.random.Generator
) -> None:
    asked = [{"name": "overlay_png", "parameters": BINARY}]
    images_nhwc = pixels(rng, 2)
    found = outputs(await http.post(INFER, json=request(images_input(images_nhwc), outputs=asked)))
    for picture in found["overlay_png"]:
        assert Image.open(io.BytesIO(picture)).size == (8, 8)
    tensor = images_input(rng.integers(0, 256, (1, 28, 28, 1), np.uint8))
    path = INFER.replace("colours", "digits")
    found = outputs(await http.post(path, json=request(tensor, outputs=asked)))
    assert Image.open(io.BytesIO(found["overlay_png"][0])).size == (28, 28)


async def test_a_body_without_a_header_is_one_image_or_one_tensor(
    http: httpx.AsyncClient, rng: np.random.Generator
) -> None:
    for image_format in ("PNG", "BMP", "GIF", "WEBP"):
        body = encode(colour_image(rng), image_format)
        response = await http.post(INFER, content=body, headers={LENGTH: "0"})
        top = int(outputs(response)["probabilities"].argmax())
        assert (await http.post("/predict", content=body)).json()["index"] == top
    for start in (b"", b"BM", b"RIFF"):
        raw = start + pixels(rng).tobytes()[len(start) :]
        images_nhwc = np.frombuffer(raw, np.uint8).reshape(1, 8, 8, 3)
        matches(outputs(await http.post(INFER, content=raw, headers={LENGTH: "0"})), images_nhwc)


@pytest.mark.parametrize("binary_out", [False, True])
async def test_classification_names_the_classes_in_descending_order(
    http: httpx.AsyncClient, rng: np.random.Generator, binary_out: bool
) -> None:
    images_nhwc = pixels(rng, 2)
    asked = [
        {"name": name, "parameters": {"classification": count, "binary_data": binary_out}}
        for name, count in (("probabilities", 2), ("logits", 9), ("cams", 1))
    ]
    body = request(images_input(images_nhwc), outputs=asked)
    found = outputs(await http.post(INFER, json=body))
    probabilities = COLOUR_NETWORK.probabilities(images_nhwc)
    entries = [entry.decode().split(":") for entry in found["probabilities"]]
    ranked = np.argsort(-probabilities)[:, :2]
    assert [entry[1:] for entry in entries] == [[str(i), COLOURS[i]] for i in ranked.ravel()]
    values = np.take_along_axis(probabilities, ranked, 1).ravel()
    np.testing.assert_allclose([float(entry[0]) for entry in entries], values, atol=1e-6)
    assert len(found["logits"]) == 2 * len(COLOURS)
    peaks = COLOUR_NETWORK.cams(images_nhwc).reshape(2, -1).argmax(1)
    assert [entry.split(b":")[1:] for entry in found["cams"]] == [[b"%d" % p] for p in peaks]
