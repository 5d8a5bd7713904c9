"""Binary tensor extension: JSON first, then the bytes of the binary tensors in order.

`Inference-Header-Content-Length` is the length of the JSON. A request or a response can have JSON
tensors and binary tensors at the same time.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from limelight.artifact.manifest import Manifest
from limelight.imaging.formats import is_image
from service.oip.errors import InvalidInference
from service.oip.json_codec import dump, output_head, output_tree, read_request, response_tree
from service.oip.metadata import IMAGE_BYTES, IMAGES
from service.oip.tensors import write_bytes
from service.oip.types import (
    InferRequest,
    InferResponse,
    InputTensor,
    OutputTensor,
    Parameters,
    Raw,
)

_SIZE = "binary_data_size"
# Allowance for JSON values other than pixels: names, shapes, parameters, encoded images.
_EXTRA_VALUES = 10_000


def decode_request(
    body: bytes, header_length: str | None, manifest: Manifest, *, max_batch: int
) -> InferRequest:
    """Decode the body of a request. Without `header_length`, the whole body is JSON.

    With a length of 0, the whole body is one tensor: an encoded image, or the pixels of one.

    Raises:
        InvalidInference: the body is malformed.
    """
    request = _decode(body, header_length, manifest, max_batch)
    # The answer is encoded by them after the forward pass, which is too late for a complaint.
    _flag(request.parameters, "binary_data_output", default=False)
    for output in request.outputs:
        _flag(output.parameters, "binary_data", default=False)
    return request


def _decode(
    body: bytes, header_length: str | None, manifest: Manifest, max_batch: int
) -> InferRequest:
    if header_length is None:
        _check_values(body, len(body), manifest, max_batch)
        return read_request(body, _Blobs(b"").content)
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 20):
        raise InvalidInference(
            f"Inference-Header-Content-Length is {header_length[:100]!r}, and must be a number"
        )
    length = int(header_length)
    if length > len(body):
        raise InvalidInference(
            f"Inference-Header-Content-Length is {length}, and the body has {len(body)} bytes"
        )
    if length == 0:
        return _whole_body(body, manifest)
    _check_values(body, length, manifest, max_batch)
    blobs = _Blobs(memoryview(body)[length:])
    request = read_request(memoryview(body)[:length], blobs.content)
    blobs.check_end()
    return request


def encode_response(response: InferResponse, request: InferRequest) -> tuple[bytes, int | None]:
    """Return the body and the length of its JSON part; the length is None if all is JSON."""
    default = _flag(request.parameters, "binary_data_output", default=False)
    trees, blobs = [], []
    for tensor in response.outputs:
        if _flag(tensor.parameters, "binary_data", default=default):
            blob = raw_content(tensor)
            blobs.append(blob)
            trees.append(output_head(tensor) | {"parameters": {_SIZE: len(blob)}})
        else:
            trees.append(output_tree(tensor))
    header = dump(response_tree(response, trees))
    return (b"".join((header, *blobs)), len(header)) if blobs else (header, None)


def raw_content(tensor: OutputTensor) -> bytes:
    """Return the elements of a tensor as contiguous bytes, little-endian."""
    content = tensor.content
    if isinstance(content, np.ndarray):
        return content.astype("<f4", copy=False).tobytes()
    return write_bytes(content)


class _Blobs:
    """Bytes after the JSON. Each binary tensor takes its part in order."""

    def __init__(self, rest: Raw) -> None:
        self._rest = rest

    def content(
        self, name: str, entry: Mapping[str, Any], parameters: Parameters
    ) -> Raw | Sequence[Any]:
        size, data = parameters.get(_SIZE), entry.get("data")
        if (size is None) == ("data" not in entry):
            raise InvalidInference(
                f"input {name[:100]!r} must have either 'data' or the parameter {_SIZE!r}"
            )
        if size is None:
            if not isinstance(data, list):
                raise InvalidInference(f"'data' of input {name[:100]!r} must be a list")
            return data
        if type(size) is not int or size < 0:
            raise InvalidInference(f"{_SIZE} of input {name[:100]!r} must be a whole number")
        if size > len(self._rest):
            raise InvalidInference(
                f"{_SIZE} of input {name[:100]!r} is {size}, and {len(self._rest)} bytes are left"
            )
        part, self._rest = self._rest[:size], self._rest[size:]
        return part

    def check_end(self) -> None:
        if len(self._rest):
            raise InvalidInference(f"{len(self._rest)} bytes follow the last input")


def _check_values(body: bytes, length: int, manifest: Manifest, max_batch: int) -> None:
    """Limit the number of JSON values by counting commas, before parsing.

    Parsed values take up to 40 times the memory of their text.
    """
    rule = manifest.image
    max_values = max_batch * rule.height * rule.width * rule.channels + _EXTRA_VALUES
    if body.count(b",", 0, length) > max_values:
        raise InvalidInference(
            f"the JSON has more values than {max_batch} images, the maximum of a request"
        )


def _whole_body(body: bytes, manifest: Manifest) -> InferRequest:
    """Return the request of a body that is one tensor.

    A body with the signature of an image format is an encoded image; else it is pixels.
    """
    rule = manifest.image
    if is_image(body):
        tensor = InputTensor(name=IMAGE_BYTES, datatype="BYTES", shape=(1, 1), content=[body])
    else:
        shape = (1, rule.height, rule.width, rule.channels)
        tensor = InputTensor(name=IMAGES, datatype="UINT8", shape=shape, content=body)
    return InferRequest(inputs=[tensor], parameters={"binary_data_output": True})


def _flag(parameters: Parameters, name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInference(f"the parameter {name} must be true or false")
    return value
