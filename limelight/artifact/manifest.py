"""Manifest of a model: all facts about it, and the contract between training and serving.

An artefact is a folder ``NAME/VERSION/`` that contains ``manifest.json`` and the files it lists.
The graph takes ``images``, uint8 (N, H, W, C), and returns ``logits`` (N, K), ``probabilities``
(N, K) and ``cams`` (N, K, h, w), all float32. It includes normalisation, calibration and softmax.

Newer graphs also return ``features`` (N, C, h, w), the input of the head, and ``ood_score`` (N,),
which is high for out-of-distribution images. ``layercams`` (N, K, h', w'), the LayerCAM maps, take
as long as several forward passes, so a separate graph returns them along with all other outputs.
Further graphs may return the outputs of the first one from fp16 layers, for a GPU, or from int8
layers, for a CPU. ``golden.npz`` holds a few images with the outputs that every graph must give.
"""

from typing import Literal

from pydantic import Field, JsonValue, model_validator

from limelight.artifact.field_types import (
    FileFormat,
    FileName,
    Frozen,
    Method,
    Name,
    Sha256,
    Version,
)
from limelight.artifact.measurements import (
    Abstention,
    Calibration,
    Faithfulness,
    Golden,
    Int8,
    Metrics,
    OutOfDistribution,
    Parity,
    Robustness,
)
from limelight.explanations.methods import ALWAYS, METHODS
from limelight.imaging.image_rule import ImageRule
from limelight.labels import normalized

MANIFEST_FILE = "manifest.json"
SCHEMA_VERSION = 1
LAYERCAMS = "layercams"
"""Output that a graph of format ``onnx-layercam`` has in addition to those of ``onnx``."""


class TensorSpec(Frozen):
    """Input or output of the graph; a string in `shape` names a free dimension."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int | str, ...]


class ModelFile(Frozen):
    sha256: Sha256
    bytes: int = Field(ge=1)
    format: FileFormat


class Network(Frozen):
    architecture: str
    parameters: int
    multiply_accumulates: int
    """Multiply-accumulates of one image's forward pass, in convolutions and linear layers."""


class Data(Frozen):
    name: str
    sha256: Sha256
    """Digest of the decoded arrays, training and test."""
    licence: str
    source: str
    train_images: int
    validation_images: int
    test_images: int


class Manifest(Frozen):
    """Validated content of `manifest.json`."""

    schema_version: Literal[1]
    name: Name
    version: Version
    created: str
    description: str
    classes: tuple[str, ...] = Field(min_length=2)
    image: ImageRule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    cams: Literal["exact", "approximate"] = "exact"
    """Type of the maps. ``exact``: a map's mean plus the bias is the logit (average pooling)."""
    methods: tuple[Method, ...] = ("cam", "contrast", "occlusion")
    """Explanation methods that the model supports; some need an additional output."""
    opset: int
    files: dict[FileName, ModelFile]
    network: Network
    training: dict[str, JsonValue]
    data: Data
    metrics: Metrics
    calibration: Calibration
    abstention: Abstention | None = None
    out_of_distribution: OutOfDistribution | None = None
    faithfulness: Faithfulness | None = None
    robustness: Robustness | None = None
    parity: dict[str, Parity]
    int8: Int8 | None = None
    golden: Golden | None = None
    libraries: dict[str, str]

    @model_validator(mode="after")
    def _is_servable(self) -> "Manifest":
        if len(set(map(normalized, self.classes))) != len(self.classes):
            raise ValueError("classes: the names are not all different")
        if [tensor.name for tensor in self.inputs] != ["images"]:
            raise ValueError("inputs: the graph must take one tensor, 'images'")
        outputs = {tensor.name for tensor in self.outputs}
        missing = ALWAYS - outputs
        if missing:
            raise ValueError(f"outputs: {', '.join(sorted(missing))} missing")
        cams = next(tensor for tensor in self.outputs if tensor.name == "cams")
        if len(cams.shape) != 4 or not all(
            isinstance(size, int) and size > 0 for size in cams.shape[2:]
        ):
            raise ValueError(
                f"outputs: the shape of 'cams' is {list(cams.shape)}, not [N, K, h, w]"
            )
        for method in self.methods:
            if METHODS[method].output not in outputs:
                raise ValueError(f"methods: {method} needs the output {METHODS[method].output!r}")
        if self.out_of_distribution is not None and "ood_score" not in outputs:
            raise ValueError("out_of_distribution: there is no output 'ood_score'")
        if not any(file.format == "onnx" for file in self.files.values()):
            raise ValueError("files: no file of format 'onnx', which is what the service runs")
        if (LAYERCAMS in outputs) != (self.layercam_file is not None):
            raise ValueError(
                f"files: {LAYERCAMS!r} and a file of format 'onnx-layercam' go together"
            )
        if self.golden is not None and self.golden_file is None:
            raise ValueError("golden: there is no file of format 'golden-samples'")
        return self

    @property
    def onnx_file(self) -> str:
        """Name of the file that the service runs."""
        return next(name for name, file in self.files.items() if file.format == "onnx")

    @property
    def fp16_file(self) -> str | None:
        """Name of the fp16 file that the service can run instead; None if there is none."""
        return self._file_of("onnx-fp16")

    @property
    def int8_file(self) -> str | None:
        """Name of the int8 file that the service can run instead; None if there is none."""
        return self._file_of("onnx-int8")

    @property
    def golden_file(self) -> str | None:
        """Name of the file with the golden samples; None in older exports."""
        return self._file_of("golden-samples")

    @property
    def layercam_file(self) -> str | None:
        """Name of the file that the service runs for LayerCAM maps; None if there is none."""
        return self._file_of("onnx-layercam")

    def _file_of(self, form: FileFormat) -> str | None:
        return next((name for name, file in self.files.items() if file.format == form), None)

    @property
    def expensive_outputs(self) -> frozenset[str]:
        """Outputs that slow the forward pass down, so they are computed only on request."""
        return frozenset() if self.layercam_file is None else frozenset({LAYERCAMS})

    @property
    def cam_shape(self) -> tuple[int, int]:
        """Height and width of a class activation map."""
        cams = next(tensor for tensor in self.outputs if tensor.name == "cams")
        height, width = cams.shape[-2:]
        return int(height), int(width)
