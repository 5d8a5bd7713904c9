"""Types of the fields of a manifest."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from limelight.explanations.methods import METHODS

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Version = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _known(method: str) -> str:
    if method not in METHODS:
        raise ValueError(f"no explanation method {method!r}; there are: {', '.join(METHODS)}")
    return method


Method = Annotated[str, AfterValidator(_known)]
"""Name of an explanation method; see `limelight.explanations.methods`."""
OodScoreName = Literal["energy", "max-logit", "vim", "knn", "knn-norm"]
"""Name of an out-of-distribution (OOD) score; see `models.ood_scores`."""
FileFormat = Literal[
    "onnx",
    "onnx-fp16",
    "onnx-int8",
    "onnx-layercam",
    "onnx-data",
    "torchscript",
    "torch.export",
    "safetensors",
    "golden-samples",
]
"""Format of a file. ``onnx-fp16`` and ``onnx-int8`` are the graph of ``onnx`` with fp16 layers, for
a GPU, and with int8 layers, for a CPU; the outputs of all are float32. ``onnx-data`` is a file in
which a graph keeps weights, ``golden-samples`` one of images and the outputs they must give."""
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]


class Frozen(BaseModel):
    """Part of a manifest: it never changes, and has no other fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")
