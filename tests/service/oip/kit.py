"""Construction of the protocol's requests and parsing of its answers, without a client library."""

import json
import socket
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from limelight.artifact.store import Artifact
from tests.serving_kit import COLOUR_NETWORK

INFER = "/v2/models/colours/infer"
LENGTH = "Inference-Header-Content-Length"
GIVEN = ("logits", "probabilities", "cams")
"""Outputs with a numpy reference, without the expensive ones."""
_DTYPES = {"FP32": np.dtype("<f4")}


def free_port() -> int:
    """Return a port that is not in use at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def pixels(rng: np.random.Generator, batch: int = 1) -> NDArray[np.uint8]:
    """Create random images for the model `colours`: (N, 8, 8, 3)."""
    return rng.integers(0, 256, (batch, 8, 8, 3), np.uint8)


def images_input(images_nhwc: NDArray[np.uint8], **changes: Any) -> dict[str, Any]:
    """Create the input tensor `images` with its values in JSON."""
    return {
        "name": "images",
        "datatype": "UINT8",
        "shape": list(images_nhwc.shape),
        "data": images_nhwc.ravel().tolist(),
    } | changes


def request(*inputs: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"inputs": list(inputs), **changes}


def binary(header: dict[str, Any], *blobs: bytes) -> tuple[bytes, dict[str, str]]:
    """Create a body of the binary extension, and its header."""
    text = json.dumps(header).encode()
    return b"".join((text, *blobs)), {LENGTH: str(len(text))}


def outputs(response: httpx.Response) -> dict[str, Any]:
    """Return the answer's tensors by name: arrays, or lists of bytes for BYTES."""
    assert response.status_code == 200, response.text
    length = response.headers.get(LENGTH)
    body = response.content
    head, rest = (body, b"") if length is None else (body[: int(length)], body[int(length) :])
    found: dict[str, Any] = {}
    for tensor in json.loads(head)["outputs"]:
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            data = tensor["data"]
            found[tensor["name"]] = (
                np.array(data, np.float32).reshape(tensor["shape"])
                if tensor["datatype"] == "FP32"
                else [text.encode() for text in data]
            )
            continue
        blob, rest = rest[:size], rest[size:]
        assert len(blob) == size
        if tensor["datatype"] == "BYTES":
            found[tensor["name"]] = split(blob)
        else:
            values = np.frombuffer(blob, _DTYPES[tensor["datatype"]])
            found[tensor["name"]] = values.reshape(tensor["shape"])
    assert rest == b""
    return found


def split(blob: bytes) -> list[bytes]:
    elements = []
    while blob:
        end = 4 + int.from_bytes(blob[:4], "little")
        elements.append(blob[4:end])
        blob = blob[end:]
    return elements


def expect_error(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    content = response.json()
    assert list(content) == ["error"]
    error: str = content["error"]
    assert error
    return error


def matches(found: dict[str, Any], images_nhwc: np.ndarray) -> None:
    """Compare all outputs that have a numpy reference with it."""
    assert found
    for name, values in found.items():
        reference = getattr(COLOUR_NETWORK, name, None)
        if reference is not None:
            np.testing.assert_allclose(values, reference(images_nhwc), atol=1e-5)


def result_matches(result: Any, images_nhwc: np.ndarray, names: tuple[str, ...] = GIVEN) -> None:
    """Compare a result of Triton's client with the numpy reference."""
    for name in names:
        expected = getattr(COLOUR_NETWORK, name)(images_nhwc)
        np.testing.assert_allclose(result.as_numpy(name), expected, atol=1e-5)


def names(artifact: Artifact) -> list[str]:
    """Return the names of the outputs that are not expensive, in the manifest's order."""
    expensive = artifact.manifest.expensive_outputs
    return [tensor.name for tensor in artifact.manifest.outputs if tensor.name not in expensive]


def rpc_message(images_nhwc: np.ndarray, **fields: Any) -> Any:
    """Create a gRPC request for `colours`, still without contents."""
    request = service_pb2.ModelInferRequest(model_name="colours", **fields)
    request.inputs.add(name="images", datatype="UINT8", shape=images_nhwc.shape)
    return request
