"""JSON codec of requests and responses. Names and types of requests are validated."""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from service.oip.errors import InvalidInference
from service.oip.metadata import OVERLAY
from service.oip.types import (
    MAX_DIMENSIONS,
    InferRequest,
    InferResponse,
    InputTensor,
    OutputTensor,
    Parameters,
    Raw,
    RequestedOutput,
)
from service.oip.validation import check_memory

Json = dict[str, Any]
Content = Callable[[str, Mapping[str, Any], Parameters], Raw | Sequence[Any]]
"""Function that returns a tensor's content, given its name, its JSON object and its parameters."""


def parse_json(text: Raw) -> Any:
    """Parse JSON.

    Raises:
        InvalidInference: the text is not JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInference(f"the request is not JSON: {error}") from error


def read_request(text: Raw, content: Content) -> InferRequest:
    """Read an inference request.

    Raises:
        InvalidInference: the text is not JSON or not a request, or `content` raised this error.
    """
    tree = parse_json(text)
    if not isinstance(tree, dict):
        raise InvalidInference("the request must be a JSON object")
    return InferRequest(
        inputs=[_input(entry, content) for entry in _objects("inputs", tree.get("inputs"))],
        outputs=[
            RequestedOutput(name=_name("outputs", entry), parameters=read_parameters(entry))
            for entry in _objects("outputs", _given(tree, "outputs", []))
        ],
        parameters=read_parameters(tree),
        id=_text("id", _given(tree, "id", "")),
    )


def read_parameters(entry: Mapping[str, Any]) -> Parameters:
    """Read the parameters of a request, an input or an output.

    Raises:
        InvalidInference: a value is not a boolean, a number or a string.
    """
    parameters = _given(entry, "parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidInference("parameters must be a JSON object")
    for name, value in parameters.items():
        if not isinstance(value, bool | int | float | str):
            raise InvalidInference(
                f"parameter {name[:100]!r} must be a boolean, a number or a string"
            )
    return parameters


def response_tree(response: InferResponse, outputs: Sequence[Json]) -> Json:
    """Return the JSON tree of a response; `outputs` are the trees of its tensors."""
    tree: Json = {"model_name": response.model, "model_version": response.version}
    if response.id:
        tree["id"] = response.id
    tree["outputs"] = outputs
    return tree


def output_tree(tensor: OutputTensor) -> Json:
    """Return a tensor with its values, flat. Pictures are base64, as `content_type` says."""
    tree = output_head(tensor)
    content = tensor.content
    if isinstance(content, np.ndarray):
        return tree | {"data": content.reshape(-1)}
    if tensor.name != OVERLAY:
        return tree | {"data": [element.decode() for element in content]}
    return tree | {
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(element).decode() for element in content],
    }


def output_head(tensor: OutputTensor) -> Json:
    """Return a tensor without its values."""
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}


def dump(tree: Any) -> bytes:
    """Return compact JSON. Arrays become lists; a float32 has no more digits than needed."""
    return orjson.dumps(tree, option=orjson.OPT_SERIALIZE_NUMPY)


def _input(entry: Mapping[str, Any], content: Content) -> InputTensor:
    name, parameters = _name("inputs", entry), read_parameters(entry)
    check_memory(f"input {name[:100]!r}", parameters)
    return InputTensor(
        name=name,
        datatype=_text("datatype", entry.get("datatype")),
        shape=_shape(entry.get("shape")),
        content=content(name, entry, parameters),
    )


def _given(entry: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return the value of a field, or `default`. Some clients write null for absent fields."""
    value = entry.get(name)
    return default if value is None else value


def _shape(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MAX_DIMENSIONS:
        raise InvalidInference(f"shape must be a list of at most {MAX_DIMENSIONS} numbers")
    if not all(type(size) is int and size >= 0 for size in value):
        raise InvalidInference("shape must hold whole numbers, 0 or more")
    return tuple(value)


def _objects(name: str, value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise InvalidInference(f"{name} must be a list of JSON objects")
    return value


def _name(parent: str, entry: Mapping[str, Any]) -> str:
    return _text(f"name in {parent}", entry.get("name"))


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidInference(f"{name} must be a string")
    return value
