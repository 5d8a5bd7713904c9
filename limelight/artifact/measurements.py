"""Measurements of a model by its export, as its manifest records them."""

from typing import Literal, Self

from pydantic import Field, model_validator

from limelight.artifact.field_types import FileName, Frozen, Method, OodScoreName


class Metrics(Frozen):
    """Metrics of the exported ONNX graph on the held-out test set, without augmentation."""

    images: int
    accuracy: float
    log_loss: float
    ece: float
    """Expected calibration error, 15 bins, after calibration."""


class Calibration(Frozen):
    """Calibration of the probabilities, fitted on the validation split; see `models.calibrator`."""

    method: Literal["temperature", "prelec"]
    temperature: float = Field(gt=0, allow_inf_nan=False)
    exponent: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Exponent of Prelec's function; with 1 it is temperature scaling."""
    interval: tuple[float, float] | None = None
    """95 % interval of the temperature, at this exponent. A temperature alone keeps 1 if the
    interval contains it."""
    images: int
    ece_before: float
    ece_after: float
    """Calibration error of images that the calibration was not fitted to."""
    log_loss_before: float | None = None
    log_loss_after: float | None = None

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        if (self.method == "temperature") != (self.exponent == 1):
            raise ValueError(f"the method {self.method} with the exponent {self.exponent}")
        return self


class Abstention(Frozen):
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


class Detection(Frozen):
    """Separation of one OOD data set from the test set by the OOD score."""

    images: int
    auroc: float
    """Area under the receiver operating characteristic, with OOD images as the positive class."""
    fpr95: float
    """Share of the OOD images below the threshold that 95 % of the test images are below."""


class OutOfDistribution(Frozen):
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


class MethodFaithfulness(Frozen):
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


class Faithfulness(Frozen):
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


class Robustness(Frozen):
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


class Parity(Frozen):
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


class Int8(Frozen):
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


class GoldenError(Frozen):
    """Difference between the outputs of a graph and those of the golden samples."""

    probabilities: float = Field(ge=0)
    """Mean total variation distance, 0 to 1."""
    cams: float = Field(ge=0)
    """Norm of the difference, divided by the norm of the golden maps."""


class Golden(Frozen):
    """Golden samples: images with the outputs of the float32 graph where it was exported."""

    images: int = Field(ge=1)
    errors: dict[FileName, GoldenError]
    """Differences of each graph at the export. A processor that computes right adds little."""
