"""The manifest: every fact about a model, and the contract between training and serving.

An artefact is a folder ``NAME/VERSION/`` that holds ``manifest.json`` and the files it lists.
The graph takes ``images``, uint8 (N, H, W, C), and gives ``logits`` (N, K), ``probabilities``
(N, K) and ``cams`` (N, K, h, w), all float32; normalisation, temperature and softmax are inside.
Newer ones also give ``features`` (N, C, h, w), what the head was given; ``ood_score`` (N,), high
for images unlike the training data; and, some of them, ``layercams`` (N, K, h', w'), finer maps,
whose derivatives cost several passes: a graph of its own gives all the outputs and these. Another
may give the same outputs with layers in half precision, for a GPU.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

from limelight.explanations.methods import METHODS

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
"""The name of an explanation method; see `limelight.explanations.methods`."""
OodScoreName = Literal["energy", "max-logit", "vim"]
"""What tells out-of-distribution images: the free energy of the logits; the largest logit, negated;
or the energy and what the features add to it (ViM)."""
LAYERCAMS = "layercams"
"""The output that a file of format ``onnx-layercam`` gives beside those of the one of ``onnx``."""
FileFormat = Literal[
    "onnx", "onnx-fp16", "onnx-layercam", "torchscript", "torch.export", "safetensors"
]
"""``onnx-fp16`` is the graph of ``onnx`` with its layers in float16, for a GPU; what comes out is
float32 in each."""
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
    format: FileFormat


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


class Abstention(_Frozen):
    """When an answer is not to be relied on, and what that comes to on the test set."""

    threshold: float = Field(ge=0, le=1)
    """An answer with less confidence is flagged; chosen on the validation split."""
    error_limit: float = Field(ge=0, le=1)
    """Of the validation answers that are not flagged, at most this share is wrong."""
    images: int
    coverage: float
    """Share of the test images that is answered without the flag."""
    accuracy: float
    """Of those."""


class Detection(_Frozen):
    """How well the score tells one kind of strange images from the test set's."""

    images: int
    auroc: float
    """Area under the receiver operating characteristic, strange images being the positive ones."""
    fpr95: float
    """Share of the strange images that passes where 95 % of the test images pass."""


class OutOfDistribution(_Frozen):
    """The score for images unlike the training data, and what it is worth."""

    score: OodScoreName
    """Chosen by AUROC on the validation split and strange images that are not in `against`."""
    threshold: float
    """A higher score is flagged; 95 % of the validation images are below."""
    auroc_when_chosen: dict[OodScoreName, float]
    images: int
    """Of the test set, which `against` is compared with."""
    flagged: float
    """Share of the test set over the threshold."""
    against: dict[str, Detection]


class MethodFaithfulness(_Frozen):
    """How far the maps of one method point to what the network depends on; means over images."""

    deletion: float
    """Area under the class's probability while its pixels go, those the map puts first going first;
    lower is better (Petsiuk et al., 2018)."""
    insertion: float
    """The same while they come back; higher is better."""
    road: float | None = None
    """Half of how much more probable the class is without what the map puts last than without what
    it puts first; higher is better (Rong et al., 2022, combined; up to 64 images)."""
    pointing: float | None = None
    """Share of scenes in which the map's peak is on the object (Zhang et al., 2018)."""


class Faithfulness(_Frozen):
    """What the explanations are worth, measured on validation images through the ONNX graph."""

    images: int
    scenes: int
    """That the pointing game was played on; 0 where the image rule finds the object itself."""
    chance: float | None
    """Share of a scene that the object takes: what a random peak would hit."""
    methods: dict[Method | Literal["random"], MethodFaithfulness]
    """`random` is a map of noise at the resolution of `cam`."""
    gain: float
    """Insertion less deletion of `cam`, less that of `random`, mean over the images."""
    gain_error: float = Field(ge=0)
    """Standard error of the gain."""
    head_similarity: float
    """Rank correlation of the maps with those of a head whose weights are shuffled (Adebayo et al.,
    2018): near 0 where the maps show what the network has learned."""


class Parity(_Frozen):
    """One exported format against eager torch on the CPU."""

    images: int
    """At the largest batch size; at the others as many, or the first 100 of them."""
    batch_sizes: tuple[int, ...]
    max_probability_error: float
    top1_disagreements: int
    max_cam_error: float | None = None
    """Largest difference of maps, features and scores from eager torch's; older exports lack it."""
    mean_layercam_error: float | None = None
    """Mean difference of the finer maps, as a share of their mean. A derivative jumps where a unit
    is about to become active, so that single values may differ by more than rounding."""
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
    """Explanations that the service can give; some need an output of their own."""
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
    parity: dict[str, Parity]
    libraries: dict[str, str]

    @model_validator(mode="after")
    def _is_servable(self) -> "Manifest":
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: the names are not all different")
        if [tensor.name for tensor in self.inputs] != ["images"]:
            raise ValueError("inputs: the graph must take one tensor, 'images'")
        outputs = {tensor.name for tensor in self.outputs}
        missing = {"logits", "probabilities", "cams"} - outputs
        if missing:
            raise ValueError(f"outputs: {', '.join(sorted(missing))} missing")
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
        return self

    @property
    def onnx_file(self) -> str:
        """Name of the file that the service runs."""
        return next(name for name, file in self.files.items() if file.format == "onnx")

    @property
    def fp16_file(self) -> str | None:
        """Name of the one that it runs instead in half precision; None where there is none."""
        return self._file_of("onnx-fp16")

    @property
    def layercam_file(self) -> str | None:
        """Name of the one that it runs for finer maps; None where there are none."""
        return self._file_of("onnx-layercam")

    def _file_of(self, form: FileFormat) -> str | None:
        return next((name for name, file in self.files.items() if file.format == form), None)

    @property
    def expensive_outputs(self) -> frozenset[str]:
        """Those that make a pass slow, and that only those pay for who ask for them."""
        return frozenset() if self.layercam_file is None else frozenset({LAYERCAMS})

    @property
    def cam_shape(self) -> tuple[int, int]:
        """Height and width of a class activation map."""
        cams = next(tensor for tensor in self.outputs if tensor.name == "cams")
        height, width = cams.shape[-2:]
        return int(height), int(width)
