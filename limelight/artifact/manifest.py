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

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

from limelight.explanations.methods import ALWAYS, METHODS
from limelight.imaging.image_rule import ImageRule
from limelight.labels import normalized

MANIFEST_FILE = "manifest.json"
SCHEMA_VERSION = 1

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
LAYERCAMS = "layercams"
"""Output that a graph of format ``onnx-layercam`` has in addition to those of ``onnx``."""
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


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(_Frozen):
    """Input or output of the graph; a string in `shape` names a free dimension."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int | str, ...]


class ModelFile(_Frozen):
    sha256: Sha256
    bytes: int = Field(ge=1)
    format: FileFormat


class Network(_Frozen):
    architecture: str
    parameters: int
    multiply_accumulates: int
    """Multiply-accumulates of one image's forward pass, in convolutions and linear layers."""


class Data(_Frozen):
    name: str
    sha256: Sha256
    """Digest of the decoded arrays, training and test."""
    licence: str
    source: str
    train_images: int
    validation_images: int
    test_images: int


class Metrics(_Frozen):
    """Metrics of the exported ONNX graph on the held-out test set, without augmentation."""

    images: int
    accuracy: float
    log_loss: float
    ece: float
    """Expected calibration error, 15 bins, after calibration."""


class Calibration(_Frozen):
    """Calibration of the probabilities, fitted on the validation split; see `models.calibrator`."""

    method: Literal["temperature", "prelec"]
    temperature: float = Field(gt=0)
    exponent: float = Field(default=1.0, gt=0)
    """Exponent of Prelec's function; 1 is temperature scaling."""
    interval: tuple[float, float] | None = None
    """95 % interval of the temperature. Temperature scaling keeps 1 if the interval contains it."""
    images: int
    ece_before: float
    ece_after: float
    """Calibration error of images that the calibration was not fitted to."""
    log_loss_before: float | None = None
    log_loss_after: float | None = None


class Abstention(_Frozen):
    """Confidence threshold below which an answer is flagged, and its effect on the test set."""

    threshold: float = Field(ge=0, le=1)
    """Smallest confidence without the flag; chosen on the validation split."""
    error_limit: float = Field(ge=0, le=1)
    """Maximum share of wrong answers among the validation answers without the flag."""
    images: int
    coverage: float
    """Share of the test images that are answered without the flag."""
    accuracy: float
    """Accuracy on those test images."""


class Detection(_Frozen):
    """Separation of one OOD data set from the test set by the OOD score."""

    images: int
    auroc: float
    """Area under the receiver operating characteristic, with OOD images as the positive class."""
    fpr95: float
    """Share of the OOD images below the threshold that 95 % of the test images are below."""


class OutOfDistribution(_Frozen):
    """OOD score of the model, and how well it detects out-of-distribution images."""

    score: OodScoreName
    """Score with the best AUROC on the validation split and on OOD images outside `against`."""
    threshold: float
    """Threshold above which an image is flagged; 95 % of the validation images are below it."""
    auroc_when_chosen: dict[OodScoreName, float]
    images: int
    """Number of test images that each data set in `against` is compared with."""
    flagged: float
    """Share of the test set above the threshold."""
    against: dict[str, Detection]


class MethodFaithfulness(_Frozen):
    """Faithfulness metrics of one explanation method; means over images."""

    deletion: float
    """Area under the curve of the class's probability while pixels are removed in the map's order,
    the highest values first; lower is better (Petsiuk et al., 2018)."""
    insertion: float
    """Same area while the pixels are inserted in that order; higher is better."""
    road: float | None = None
    """Half of the difference between the class's probability with the lowest-ranked pixels removed
    and with the highest-ranked ones removed; higher is better (Rong et al., 2022, combined; up to
    64 images)."""
    pointing: float | None = None
    """Share of scenes in which the map's peak is on the object (Zhang et al., 2018)."""


class Faithfulness(_Frozen):
    """Faithfulness of the explanations, measured on validation images with the ONNX graph."""

    images: int
    scenes: int
    """Number of scenes of the pointing game; 0 if the image rule already locates the object."""
    chance: float | None
    """Share of a scene that the object covers: the expected score of a random peak."""
    methods: dict[Method | Literal["random"], MethodFaithfulness]
    """Metrics by method; `random` is a map of noise at the resolution of `cam`."""
    gain: float
    """Mean over the images of insertion minus deletion, for `cam` minus for `random`."""
    gain_error: float = Field(ge=0)
    """Standard error of the gain."""
    head_similarity: float
    """Rank correlation of the maps with those of a head whose weights are shuffled (Adebayo et al.,
    2018): near 0 if the maps depend on the trained weights."""


class Robustness(_Frozen):
    """Accuracy on corrupted test images, at the size of the network's input, with the ONNX graph.

    The corruptions are the 15 common ones of Hendrycks and Dietterich (2019). Older exports lack
    these figures.
    """

    images: int
    """Number of test images, a stratified sample."""
    severities: int = Field(ge=1, le=5)
    """Number of the five severities at which each image has each corruption."""
    parameters: str
    """Published data set whose parameters the corruptions have."""
    clean_accuracy: float
    """Accuracy on the same images without a corruption."""
    mean_accuracy: float
    """Mean over the corruptions."""
    standard_error: float = Field(ge=0)
    """Standard error of the mean accuracy, from the images."""
    corruptions: dict[str, float]
    """Accuracy by corruption."""
    by_severity: tuple[float, float, float, float, float]
    """Accuracy at severity 1 to 5, over the corruptions."""
    jpeg_75: float
    """Accuracy on the same images as JPEG of quality 75 with 4:2:0 chroma."""
    jpeg_50: float
    """The same at quality 50."""


class Parity(_Frozen):
    """Comparison of one exported format with eager PyTorch on the CPU."""

    images: int
    """Number of images at the largest batch size; at most 100 at the other sizes."""
    batch_sizes: tuple[int, ...]
    max_probability_error: float
    top1_disagreements: int
    max_cam_error: float | None = None
    """Largest difference of maps and features; None in older exports."""
    max_ood_error: float | None = None
    """Largest difference of OOD scores, as a share of the largest score, or of 1 if that is larger;
    older exports have it in `max_cam_error`."""
    mean_layercam_error: float | None = None
    """Mean difference of the LayerCAM maps, relative to their mean. A derivative is discontinuous
    where a unit becomes active, so single values may differ by more than rounding."""
    max_cam_identity_error: float | None
    """Largest |mean over positions of cam + bias - logit|; None if the maps are approximate."""


class Int8(_Frozen):
    """Comparison of the int8 graph with the float32 graph, on the test set.

    The weights and inputs of its convolutions have 8 bits (static quantisation, symmetric weights
    of 7 bits with a scale for each output channel). The processor of the export computed it.
    """

    calibration_images: int
    """Number of training images that the ranges of the activations come from."""
    percentile: float
    """Share of the activations, in percent, that their range covers."""
    float_layers: tuple[str, ...]
    """Convolutions that stay in float32."""
    images: int
    accuracy: float
    ece: float
    equal_winners: float
    """Share of the images for which both graphs predict the same class."""
    map_correlation: float
    """Mean correlation of the two maps of the predicted class."""
    probability_error: float
    """Mean total variation distance of the probabilities, 0 to 1."""


class GoldenError(_Frozen):
    """Difference between the outputs of a graph and those of the golden samples."""

    probabilities: float = Field(ge=0)
    """Mean total variation distance, 0 to 1."""
    cams: float = Field(ge=0)
    """Norm of the difference, divided by the norm of the golden maps."""


class Golden(_Frozen):
    """Golden samples: images with the outputs of the float32 graph where it was exported."""

    images: int = Field(ge=1)
    errors: dict[FileName, GoldenError]
    """Differences of each graph at the export. A processor that computes right adds little."""


class Manifest(_Frozen):
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
