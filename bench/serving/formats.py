"""Formats in which servers take images, and in which they answer with a label."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence

from bench.serving.workloads import Workload

_BOUNDARY = "limelight-benchmark"
_JSON = {"Content-Type": "application/json"}
Encoded = tuple[bytes, Mapping[str, str]]
"""A body, and the headers that say what it is."""
Encode = Callable[[bytes, Workload], Encoded]
"""Puts a workload's body into the form that a server takes."""


def raw(content: bytes, workload: Workload) -> Encoded:
    """The image, or the pixels of a batch, as the body."""
    return content, {"Content-Type": workload.media_type}


def form(image: bytes, workload: Workload) -> Encoded:
    """The image as the multipart field `images`."""
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="image"\r\n'
        f"Content-Type: {workload.media_type}\r\n\r\n"
    )
    body = head.encode() + image + f"\r\n--{_BOUNDARY}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}


def base64_json(image: bytes, workload: Workload) -> Encoded:
    """JSON with the image in base64."""
    return json.dumps({"image": base64.b64encode(image).decode()}).encode(), _JSON


def open_inference_json(image: bytes, workload: Workload) -> Encoded:
    """The protocol's JSON, with the image in base64."""
    body = base64.b64encode(image).decode()
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [body]}
    base64_text = {"parameters": {"content_type": "base64"}}
    return json.dumps({"inputs": [tensor | base64_text]}).encode(), _JSON


def open_inference_lists(pixels: bytes, workload: Workload) -> Encoded:
    """The protocol's JSON, with the pixels as a flat list."""
    tensor = {"name": "image", "shape": list(workload.shape), "datatype": "UINT8"}
    return json.dumps({"inputs": [tensor | {"data": list(pixels)}]}).encode(), _JSON


def open_inference_image(name: str) -> Encode:
    """The protocol's binary extension with the image as the input `name`."""
    return lambda image, workload: _binary(
        name, "BYTES", (1, 1), len(image).to_bytes(4, "little") + image
    )


def open_inference_pixels(pixels: bytes, workload: Workload) -> Encoded:
    """The protocol's binary extension with the pixels of a batch."""
    return _binary("images", "UINT8", workload.shape, pixels)


def _binary(name: str, datatype: str, shape: Sequence[int], content: bytes) -> Encoded:
    """Ask for each image's best class."""
    tensor = {
        "name": name,
        "shape": list(shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": len(content)},
    }
    output = {"name": "probabilities", "parameters": {"classification": 1}}
    head = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    return head + content, {"Content-Type": "application/octet-stream", **length}


def plain_label(content: bytes) -> str:
    """Read an answer that is an object with a label."""
    return str(json.loads(content)["label"])


def first_label(content: bytes) -> str:
    """Read an answer that is a list of such objects."""
    return str(json.loads(content)[0]["label"])


def classified_label(content: bytes) -> str:
    """Read the protocol's answer to a request for classes, `value:index:label` for each image."""
    return str(json.loads(content)["outputs"][0]["data"][0]).split(":", 2)[2]


def output_label(content: bytes) -> str:
    """Read the protocol's answer whose only output is labels."""
    return str(json.loads(content)["outputs"][0]["data"][0])
