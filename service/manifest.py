"""The manifest: every fact about a model, and the contract between training and serving.

An artefact is a folder ``NAME/VERSION/`` that holds ``manifest.json`` and the files it lists.
The graph takes ``images``, uint8 (N, H, W, C), and gives ``logits`` (N, K), ``probabilities``
(N, K) and ``cams`` (N, K, h, w), all float32; normalisation, temperature and softmax are inside.
Newer ones also give ``features`` (N, C, h, w), what the head was given.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

MANIFEST_FILE = "manifest.json"
SCHEMA_VERSION = 1

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Version = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Method = Literal["cam", "contrast", "occlusion", "scorecam"]
"""Ways to explain an answer: the class's activation map, the difference of two classes' maps, and
two that mask the image and look again."""
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageRule(_Frozen):
    """How an upload becomes the pixels that the network was trained on.

    `fit` says which part of the upload the network sees, and how it is brought to size:
    ``crop`` the largest centred rectangle of the input's proportions; ``ink`` what is drawn on
    the background, in MNIST's own layout (longest side 20 of 28, centre of mass in the middle).
    An upload that has the input's size already is taken as it is.
    """

    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    mode: Literal["L", "RGB"]
    fit: Literal["crop", "ink"]
    invert: Literal["never", "light-border"]
    """``light-border`` inverts an image whose border has a median above 127."""
    background: int = Field(ge=0, le=255)
    """Grey level that transparent pixels are laid over."""

    @property
    def channels(self) -> int:
        return len(self.mode)


class TensorSpec(_Frozen):
    """One input or output of the graph; a string in `shape` names a free dimension."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int | str, ...]


class ModelFile(_Frozen):
    sha256: Sha256
    bytes: int = Field(ge=1)
    format: Literal["onnx", "torchscript", "torch.export", "safetensors"]


class Network(_Frozen):
    architecture: str
    parameters: int
    multiply_accumulates: int
    """Of one image's forward pass, convolutions and linear layers."""


class Data(_Frozen):
    name: str
    sha256: Sha256
    """Of the decoded arrays, training and test."""
    licence: str
    source: str
    train_images: int
    validation_images: int
    test_images: int


class Metrics(_Frozen):
    """On the untouched test set, one view an image, through the exported ONNX graph."""

    images: int
    accuracy: float
    log_loss: float
    ece: float
    """Expected calibration error, 15 bins, after temperature scaling."""


class Calibration(_Frozen):
    """Temperature scaling (Guo et al., 2017), fitted on the validation split."""

    method: Literal["temperature"]
    temperature: float = Field(gt=0)
    images: int
    ece_before: float
    ece_after: float


class Parity(_Frozen):
    """One exported format against eager torch on the CPU."""

    images: int
    batch_sizes: tuple[int, ...]
    max_probability_error: float
    top1_disagreements: int
    max_cam_error: float | None = None
    """Largest difference of maps and features from eager torch's; older exports lack it."""
    max_cam_identity_error: float | None
    """Largest |mean over positions of cam + bias - logit|; None where the maps are approximate."""


class Manifest(_Frozen):
    """What `manifest.json` holds, validated."""

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
    """Whether a map's mean and the bias are the logit, as under average pooling."""
    methods: tuple[Method, ...] = ("cam", "contrast", "occlusion")
    """Explanations that the service can give; `scorecam` needs the output ``features``."""
    opset: int
    files: dict[FileName, ModelFile]
    network: Network
    training: dict[str, JsonValue]
    data: Data
    metrics: Metrics
    calibration: Calibration
    parity: dict[str, Parity]
    libraries: dict[str, str]

    @model_validator(mode="after")
    def _is_servable(self) -> "Manifest":
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: the names are not all different")
        if [tensor.name for tensor in self.inputs] != ["images"]:
            raise ValueError("inputs: the graph must take one tensor, 'images'")
        missing = {"logits", "probabilities", "cams"} - {tensor.name for tensor in self.outputs}
        if missing:
            raise ValueError(f"outputs: {', '.join(sorted(missing))} missing")
        if "scorecam" in self.methods and "features" not in {out.name for out in self.outputs}:
            raise ValueError("methods: scorecam needs the output 'features' (N, C, h, w)")
        if not any(file.format == "onnx" for file in self.files.values()):
            raise ValueError("files: no file of format 'onnx', which is what the service runs")
        return self

    @property
    def onnx_file(self) -> str:
        """Name of the file that the service runs."""
        return next(name for name, file in self.files.items() if file.format == "onnx")

    @property
    def cam_shape(self) -> tuple[int, int]:
        """Height and width of a class activation map."""
        cams = next(tensor for tensor in self.outputs if tensor.name == "cams")
        height, width = cams.shape[-2:]
        return int(height), int(width)
