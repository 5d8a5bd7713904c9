"""How servers want an image to be sent, and where their answers have the label."""

import base64
import json
from collections.abc import Callable

_BOUNDARY = "limelight-benchmark"
Encode = Callable[[bytes, str], tuple[bytes, str]]
"""An image and its media type -> a body and its Content-Type."""


def raw(image: bytes, media_type: str) -> tuple[bytes, str]:
    """The image as the body."""
    return image, media_type


def form(name: str) -> Encode:
    """The image as the multipart field `name`."""

    def encode(image: bytes, media_type: str) -> tuple[bytes, str]:
        head = (
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="image"\r\n'
            f"Content-Type: {media_type}\r\n\r\n"
        )
        body = head.encode() + image + f"\r\n--{_BOUNDARY}--\r\n".encode()
        return body, f"multipart/form-data; boundary={_BOUNDARY}"

    return encode


def base64_json(image: bytes, media_type: str) -> tuple[bytes, str]:
    """JSON with the image in base64."""
    return json.dumps({"image": base64.b64encode(image).decode()}).encode(), "application/json"


def open_inference(image: bytes, media_type: str) -> tuple[bytes, str]:
    """The Open Inference Protocol's JSON with the image in base64."""
    tensor = {
        "name": "image",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(image).decode()],
    }
    return json.dumps({"inputs": [tensor]}).encode(), "application/json"


def plain_label(content: bytes) -> str:
    """Of an answer that is an object with a label."""
    return str(json.loads(content)["label"])


def first_label(content: bytes) -> str:
    """Of an answer that is a list of such objects."""
    return str(json.loads(content)[0]["label"])


def open_inference_label(content: bytes) -> str:
    """Of the Open Inference Protocol's answer, whose one tensor holds such an object as JSON."""
    return plain_label(json.loads(content)["outputs"][0]["data"][0])
