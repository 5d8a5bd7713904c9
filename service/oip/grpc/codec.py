"""Protobuf codec of requests and responses."""

from collections.abc import Mapping
from typing import Any

from service.oip.binary_codec import raw_content
from service.oip.errors import InvalidInference
from service.oip.grpc.messages import message_class
from service.oip.types import (
    MAX_DIMENSIONS,
    InferRequest,
    InferResponse,
    InputTensor,
    Parameters,
    RequestedOutput,
)
from service.oip.validation import check_memory

_ModelInferResponse = message_class("ModelInferResponse")
# Fields of the supported input datatypes. The validation rejects tensors of other datatypes.
_MAX_PARAMETERS = 1024
_CONTENTS = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}


def read_request(message: Any) -> InferRequest:
    """Read a ModelInferRequest.

    Raises:
        InvalidInference: the contents of a tensor are in the wrong field, or a parameter is empty.
    """
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidInference(
            f"there are {len(raw)} raw_input_contents for {len(message.inputs)} inputs"
        )
    inputs = []
    for index, tensor in enumerate(message.inputs):
        if raw and tensor.HasField("contents"):
            raise InvalidInference("send either contents or raw_input_contents, not both")
        field = _CONTENTS.get(tensor.datatype)
        values = getattr(tensor.contents, field) if field is not None else ()
        check_memory(f"input {tensor.name[:100]!r}", tensor.parameters)
        if len(tensor.shape) > MAX_DIMENSIONS:
            raise InvalidInference(f"shape must have at most {MAX_DIMENSIONS} numbers")
        inputs.append(
            InputTensor(
                name=tensor.name,
                datatype=tensor.datatype,
                shape=tuple(tensor.shape),
                content=raw[index] if raw else values,
            )
        )
    return InferRequest(
        inputs=inputs,
        outputs=[
            RequestedOutput(name=output.name, parameters=_parameters(output.parameters))
            for output in message.outputs
        ],
        parameters=_parameters(message.parameters),
        id=message.id,
    )


def write_response(response: InferResponse) -> Any:
    """Return a ModelInferResponse with raw contents, like Triton."""
    message = _ModelInferResponse(
        model_name=response.model, model_version=response.version, id=response.id
    )
    for tensor in response.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_output_contents.append(raw_content(tensor))
    return message


def _parameters(fields: Mapping[str, Any]) -> Parameters:
    if len(fields) > _MAX_PARAMETERS:
        raise InvalidInference(f"there may be at most {_MAX_PARAMETERS} parameters in one place")
    parameters = {}
    for name, value in fields.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidInference(f"parameter {name[:100]!r} has no value")
        parameters[name] = getattr(value, choice)
    return parameters
