"""What is asked and answered, whichever way it travels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelight.result_builder import Winner

Parameter = bool | int | float | str
Parameters = Mapping[str, Parameter]
Raw = bytes | memoryview
"""Elements one after the other, little-endian; of BYTES each with its length in four bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputTensor:
    """As it came: its shape is a claim, of which nothing is allocated before it is checked."""

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
    """None of them: the model's own choice."""
    parameters: Parameters = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputTensor:
    name: str
    datatype: str
    shape: tuple[int, ...]
    content: NDArray[np.float32] | Sequence[bytes]
    """An array of `shape`, or the elements of BYTES in row-major order."""
    parameters: Parameters = field(default_factory=dict)
    """Those that it was requested with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferResponse:
    model: str
    version: str
    id: str
    outputs: Sequence[OutputTensor]
    winners: Sequence[Winner] = ()
    """Of each image; not part of the answer, but of what is counted."""
    method: str | None = None
    """How they were explained, likewise."""
