"""How servers want images to be sent, and where their answers have the label."""

import base64
import json
from collections.abc import Callable, Mapping

import numpy as np

from bench.serving.workloads import Workload

_BOUNDARY = "limelight-benchmark"
_JSON = {"Content-Type": "application/json"}
Encoded = tuple[bytes, Mapping[str, str]]
"""A body, and the headers that say what it is."""
Encode = Callable[[bytes, Workload], Encoded]
"""What a workload posts, as a server wants it."""


def raw(content: bytes, workload: Workload) -> Encoded:
    """The image, or the pixels of a batch, as the body."""
    return content, {"Content-Type": workload.media_type}


def form(name: str) -> Encode:
    """The image as the multipart field `name`."""

    def encode(image: bytes, workload: Workload) -> Encoded:
        head = (
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="image"\r\n'
            f"Content-Type: {workload.media_type}\r\n\r\n"
        )
        body = head.encode() + image + f"\r\n--{_BOUNDARY}--\r\n".encode()
        return body, {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}

    return encode


def base64_json(image: bytes, workload: Workload) -> Encoded:
    """JSON with the image in base64."""
    return json.dumps({"image": base64.b64encode(image).decode()}).encode(), _JSON


def lists(pixels: bytes, workload: Workload) -> Encoded:
    """JSON with a batch's pixels in nested lists."""
    return json.dumps({"images": _array(pixels, workload).tolist()}).encode(), _JSON


def open_inference(image: bytes, workload: Workload) -> Encoded:
    """The Open Inference Protocol's JSON with the image in base64."""
    tensor = {
        "name": "image",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(image).decode()],
    }
    return json.dumps({"inputs": [tensor]}).encode(), _JSON


def open_inference_lists(pixels: bytes, workload: Workload) -> Encoded:
    """The Open Inference Protocol's JSON with a batch's pixels as numbers."""
    tensor = _tensor("image", workload)
    tensor["data"] = _array(pixels, workload).ravel().tolist()
    return json.dumps({"inputs": [tensor]}).encode(), _JSON


def open_inference_binary(pixels: bytes, workload: Workload) -> Encoded:
    """The protocol's binary extension, asked for each image's best class."""
    tensor = _tensor("images", workload)
    tensor["parameters"] = {"binary_data_size": len(pixels)}
    output = {"name": "probabilities", "parameters": {"classification": 1}}
    head = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    return head + pixels, {"Content-Type": "application/octet-stream", **length}


def _tensor(name: str, workload: Workload) -> dict[str, object]:
    return {"name": name, "shape": list(workload.shape), "datatype": "UINT8"}


def _array(pixels: bytes, workload: Workload) -> np.ndarray:
    return np.frombuffer(pixels, np.uint8).reshape(workload.shape)


def plain_label(content: bytes) -> str:
    """Of an answer that is an object with a label."""
    return str(json.loads(content)["label"])


def first_label(content: bytes) -> str:
    """Of an answer that is a list of such objects."""
    return str(json.loads(content)[0]["label"])


def open_inference_label(content: bytes) -> str:
    """Of the Open Inference Protocol's answer, whose one tensor holds such an object as JSON."""
    return plain_label(json.loads(content)["outputs"][0]["data"][0])


def classified_label(content: bytes) -> str:
    """Of the protocol's answer to a request for classes: `value:index:label`, image by image."""
    return str(json.loads(content)["outputs"][0]["data"][0]).split(":", 2)[2]
