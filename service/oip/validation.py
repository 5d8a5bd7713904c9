"""Validation of a request against a model's manifest. The result is a plan of the work."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limelight.artifact.manifest import Manifest
from limelight.explanations.methods import METHODS
from limelight.explanations.options import OverlayStyle
from service.http.parameters import read_style
from service.oip.errors import InvalidInference
from service.oip.metadata import IMAGE_BYTES, IMAGES, OVERLAY
from service.oip.tensors import read_bytes, read_uint8
from service.oip.types import InferRequest, InputTensor, Parameters, RequestedOutput

CLASSIFICATION = "classification"
_METHODS = {method.output: name for name, method in METHODS.items() if method.every_class}
_SHOWN = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Parameters of the requested pictures."""

    target: str | None
    """Label or index of a class; None: the winning class of each image."""
    style: OverlayStyle


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Validated images of a request, and the outputs to compute from them."""

    images: NDArray[np.uint8] | list[bytes]
    """Pixels (N, H, W, C), or encoded images."""
    outputs: tuple[RequestedOutput, ...]
    """Outputs in the order of the response, each once."""
    graph_outputs: tuple[str, ...]
    """Outputs of the network that they need."""
    class_counts: dict[str, int]
    """Number of classes to return, for outputs with the parameter `classification`."""
    picture: Picture | None
    """Parameters of the pictures; None: none are requested."""
    explains: bool
    """True if the request needs maps, not only predictions."""
    method: str | None
    """Explanation method of the requested class maps; None: there are none."""


def check_memory(tensor: str, parameters: Iterable[str]) -> None:
    """Check that a tensor is part of the message, and not in shared memory.

    Args:
        tensor: kind and name, such as ``input 'images'``.
        parameters: names of the tensor's parameters.

    Raises:
        InvalidInference: a parameter refers to shared memory.
    """
    if any(name.startswith("shared_memory") for name in parameters):
        raise InvalidInference(
            f"{tensor}: shared memory is not supported: send and receive tensors in the message"
        )


def plan(request: InferRequest, manifest: Manifest, *, max_batch: int) -> Plan:
    """Validate a request and decode its input, without allocating more than it really contains.

    Raises:
        InvalidInference: the request does not fit the model.
        InvalidParameter: a parameter of the picture is invalid.
    """
    images = _images(request, manifest, max_batch)
    given = [tensor.name for tensor in manifest.outputs]
    outputs = _requested(request, given, manifest.expensive_outputs)
    picture = None
    if any(output.name == OVERLAY for output in outputs):
        picture = _picture(request, outputs)
    wanted = {output.name for output in outputs}
    if picture is not None:
        wanted |= {"probabilities", "cams"}
    counts = {output.name: _class_count(output) for output in outputs}
    maps = {tensor.name for tensor in manifest.outputs if len(tensor.shape) > 2}
    return Plan(
        images=images,
        outputs=outputs,
        graph_outputs=tuple(name for name in given if name in wanted),
        class_counts={name: count for name, count in counts.items() if count},
        picture=picture,
        explains=not maps.isdisjoint(wanted),
        method=next((method for name, method in _METHODS.items() if name in wanted), None),
    )


def _images(
    request: InferRequest, manifest: Manifest, max_batch: int
) -> NDArray[np.uint8] | list[bytes]:
    names = [tensor.name for tensor in request.inputs]
    for name in names:
        if name not in (IMAGES, IMAGE_BYTES):
            raise InvalidInference(
                f"unexpected inference input {name[:_SHOWN]!r} for model {manifest.name!r}: "
                f"it takes {IMAGES!r} or {IMAGE_BYTES!r}"
            )
    if len(names) != 1:
        raise InvalidInference(
            f"expected 1 input but got {len(names)} for model {manifest.name!r}: "
            f"send either {IMAGES!r} or {IMAGE_BYTES!r}, once"
        )
    tensor, rule = request.inputs[0], manifest.image
    if tensor.name == IMAGE_BYTES:
        _check_datatype(tensor, "BYTES")
        _check_shape(tensor, (), max_batch)
        return read_bytes(tensor)
    _check_datatype(tensor, "UINT8")
    _check_shape(tensor, (rule.height, rule.width, rule.channels), max_batch)
    return read_uint8(tensor)


def _check_datatype(tensor: InputTensor, expected: str) -> None:
    if tensor.datatype != expected:
        raise InvalidInference(
            f"inference input {tensor.name!r} data-type is {tensor.datatype[:_SHOWN]!r}, and must "
            f"be {expected!r}"
        )


def _check_shape(tensor: InputTensor, each: tuple[int, ...], max_batch: int) -> None:
    """Check for the shape (N, *each); encoded images can have the shape (N, 1) or (N,)."""
    shape, expected = tensor.shape, [-1, *(each or (1,))]
    if shape[1:] != each and (each or shape[1:] != (1,)):
        raise InvalidInference(
            f"unexpected shape for input {tensor.name!r}: expected {expected}, got "
            f"{str(list(shape))[:_SHOWN]}"
        )
    batch = shape[0] if shape else 0
    if not 1 <= batch <= max_batch:
        raise InvalidInference(
            f"the batch of input {tensor.name!r} has {str(batch)[:_SHOWN]} images, and must have "
            f"1 to {max_batch}"
        )
    if math.prod(shape) < 1:  # a network without input pixels; no manifest has one
        raise InvalidInference(f"input {tensor.name!r} is empty")


def _requested(
    request: InferRequest, given: list[str], expensive: frozenset[str]
) -> tuple[RequestedOutput, ...]:
    """Return the requested outputs; by default, all that are not expensive."""
    outputs = {output.name: output for output in reversed(request.outputs)}
    for name in outputs:
        if name not in given and name != OVERLAY:
            raise InvalidInference(
                f"unexpected inference output {name[:_SHOWN]!r}: there are "
                f"{', '.join([*given, OVERLAY])}"
            )
        check_memory(f"output {name!r}", outputs[name].parameters)
    if not outputs:
        return tuple(RequestedOutput(name=name) for name in given if name not in expensive)
    return tuple(reversed(outputs.values()))


def _picture(request: InferRequest, outputs: tuple[RequestedOutput, ...]) -> Picture:
    """Read the parameters of the picture; those of the output override those of the request."""
    own: Parameters = next(output.parameters for output in outputs if output.name == OVERLAY)
    parameters = {**request.parameters, **own}
    target = parameters.get("target")
    return Picture(target=None if target is None else str(target), style=read_style(parameters))


def _class_count(output: RequestedOutput) -> int:
    """Return the number of classes to return instead of the values; 0: return the values."""
    count = output.parameters.get(CLASSIFICATION, 0)
    if type(count) is not int or count < 0:
        raise InvalidInference(
            f"{CLASSIFICATION} of output {output.name!r} must be a whole number, 0 or more"
        )
    if count and output.name == OVERLAY:
        raise InvalidInference(f"{OVERLAY} has no classes: omit {CLASSIFICATION}")
    return count
