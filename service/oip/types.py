"""Requests and responses of the protocol, independent of JSON and protobuf."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelight.result_builder import Winner

Parameter = bool | int | float | str
Parameters = Mapping[str, Parameter]
Raw = bytes | memoryview
"""Contiguous elements, little-endian. Each element of BYTES is preceded by its length (4 bytes)."""
MAX_DIMENSIONS = 8
"""Most dimensions of a shape that is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputTensor:
    """Input as received. Its shape is not validated: allocate nothing by it before checking it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content: Raw | Sequence[Any]
    """Raw, or values in row-major order, nested or flat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedOutput:
    name: str
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    inputs: Sequence[InputTensor]
    outputs: Sequence[RequestedOutput] = ()
    """Requested outputs; if empty, the default outputs of the model."""
    parameters: Parameters = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputTensor:
    name: str
    datatype: str
    shape: tuple[int, ...]
    content: NDArray[np.float32] | Sequence[bytes]
    """Array of `shape`, or the elements of BYTES in row-major order."""
    parameters: Parameters = field(default_factory=dict)
    """Parameters of the requested output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferResponse:
    model: str
    version: str
    id: str
    outputs: Sequence[OutputTensor]
    winners: Sequence[Winner] = ()
    """Winning class of each image; for the metrics only, not part of the response."""
    method: str | None = None
    """Explanation method; for the metrics only."""
