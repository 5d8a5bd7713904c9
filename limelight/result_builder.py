"""Conversion of network outputs to the results that a client reads."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from limelight.artifact.measurements import Abstention, OutOfDistribution
from limelight.errors import InvalidParameter, UnknownTarget, UnsupportedMethod
from limelight.explanations.bounding_box import Box, locate
from limelight.explanations.methods import METHODS
from limelight.explanations.options import ALL, ExplainOptions
from limelight.imaging.fitting import View
from limelight.imaging.image_rule import ImageRule
from limelight.labels import longest_form, normalized
from limelight.results import ClassActivationMap, Prediction, Score, flags_of, raised

Row = Mapping[str, NDArray[np.float32]]
"""Outputs of one image by name, without the batch dimension."""

DEFAULT_TOP_K = 3
_MIN_EVALUATIONS = 4


class Winner(NamedTuple):
    """Parts of a prediction that the metrics count."""

    label: str
    confidence: float
    flags: tuple[str, ...]
    """Names of the flags that are set."""


def winner_of(prediction: Prediction) -> Winner:
    """Extract the parts of a prediction that the metrics count."""
    return Winner(prediction.label, float(prediction.confidence), flags_of(prediction))


class ModelDescription(Protocol):
    """Description of a model, as far as answers depend on it. A manifest is one."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def version(self) -> str:
        """Version of the model."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels, by index."""

    @property
    def image(self) -> ImageRule:
        """Rule that converts an upload to the network's input."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Explanation methods that the model supports."""

    @property
    def abstention(self) -> Abstention | None:
        """Confidence threshold of the flag `abstain`; None if there is no such flag."""

    @property
    def out_of_distribution(self) -> OutOfDistribution | None:
        """Threshold of the flag `out_of_distribution`; None if there is no such flag."""


@dataclass(slots=True)
class Found:
    """A class activation map and its bounding box."""

    cam: ClassActivationMap
    box: Box


class ResultBuilder:
    """Builder of predictions and maps, from the classes, thresholds and methods of one model.

    Args:
        manifest: manifest of the model, or another description of it.
        max_evaluations: maximum number of masked images that one explanation may evaluate.

    Attributes:
        read_always: outputs that every prediction needs.
    """

    def __init__(self, manifest: ModelDescription, *, max_evaluations: int = 256) -> None:
        self.manifest = manifest
        self.max_evaluations = max_evaluations
        self._indices = {normalized(label): index for index, label in enumerate(manifest.classes)}
        # The time of a normalisation grows with the square of a text of combining characters.
        self._longest_label = max(map(longest_form, manifest.classes))
        abstention, detection = manifest.abstention, manifest.out_of_distribution
        self._min_confidence = None if abstention is None else abstention.threshold
        self._max_ood_score = None if detection is None else detection.threshold
        self.read_always: tuple[str, ...] = (
            ("probabilities",) if detection is None else ("probabilities", "ood_score")
        )

    def top_k(self, asked: int | None) -> int:
        """Return the number of scores in an answer; None asks for the default.

        Raises:
            InvalidParameter: `asked` is less than 1, or more than the number of classes.
        """
        most = len(self.manifest.classes)
        if asked is None:
            return min(DEFAULT_TOP_K, most)
        if not 1 <= asked <= most:
            raise InvalidParameter(f"top_k is {asked}, and must be 1 to {most}")
        return asked

    def wants_every_class(self, options: ExplainOptions) -> bool:
        """Return whether the maps of all classes are wanted.

        If the model has a class that is called `all`, the target `all` means that class.
        """
        return options.target == ALL and ALL not in self._indices

    def check(self, options: ExplainOptions) -> None:
        """Check the options of an explanation.

        Raises:
            UnsupportedMethod: the model does not support the method.
            InvalidParameter: an option is out of range, or two options contradict each other.
        """
        supported = self.manifest.methods
        if options.method not in supported:
            raise UnsupportedMethod(
                f"{self.manifest.name} cannot explain by {options.method}: "
                f"use one of {', '.join(supported)}"
            )
        method = METHODS[options.method]
        if self.wants_every_class(options) and not method.every_class:
            able = " and ".join(f"method={name}" for name, it in METHODS.items() if it.every_class)
            raise InvalidParameter(f"target={ALL} goes with {able} only: name one class")
        if options.zoom and self.manifest.image.fit != "crop":
            raise InvalidParameter(
                f"{self.manifest.name} looks for the ink in an upload by itself: leave zoom out"
            )
        if options.against is not None and not method.contrasts:
            able = " and ".join(f"method={name}" for name, it in METHODS.items() if it.contrasts)
            raise InvalidParameter(f"against goes with {able} only")
        self._check_evaluations(options)

    def _check_evaluations(self, options: ExplainOptions) -> None:
        evaluations = options.evaluations
        if evaluations is None:
            return
        if not METHODS[options.method].masks:
            raise InvalidParameter(
                f"method={options.method} evaluates one image: leave evaluations out"
            )
        if not _MIN_EVALUATIONS <= evaluations <= self.max_evaluations:
            raise InvalidParameter(
                f"evaluations is {evaluations}, and must be {_MIN_EVALUATIONS} to "
                f"{self.max_evaluations}"
            )

    def index(self, target: str | SupportsIndex) -> int:
        """Find a class by its label, in any Unicode form, or its index.

        In a text, a label takes precedence.

        Raises:
            UnknownTarget: the model has no such class.
        """
        if not isinstance(target, str):
            number = operator.index(target)
            if 0 <= number < len(self.manifest.classes):
                return number
            target = str(number)
        if len(target) <= self._longest_label:
            index = self._indices.get(normalized(target))
            if index is not None:
                return index
        classes = self.manifest.classes
        if (
            target.isascii()
            and target.isdigit()
            and len(target) < 10
            and int(target) < len(classes)
        ):
            return int(target)
        named = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
        raise UnknownTarget(
            f"{self.manifest.name} has no class {target[:100]!r}: use one of {named}, "
            f"or an index from 0 to {len(classes) - 1}"
        )

    def rival(self, probabilities: NDArray[np.float32], index: int, against: int | None) -> int:
        """Choose the class to contrast with: `against`, or the most probable other class.

        Raises:
            InvalidParameter: `against` is the class itself.
        """
        if against == index:
            raise InvalidParameter("target and against are the same class: choose two")
        if against is not None:
            return against
        others = probabilities.copy()
        others[index] = -1.0
        return int(others.argmax())

    def prediction(self, outputs: Row, top_k: int) -> Prediction:
        """Build a prediction from the outputs in `read_always`."""
        probabilities = outputs["probabilities"]
        # In a tie the lower index comes first, as with argmax. Sorting in numpy would release the
        # interpreter's lock, and then wait until a running batch releases it.
        values = probabilities.tolist()
        ranked = sorted(range(len(values)), key=values.__getitem__, reverse=True)[:top_k]
        classes = self.manifest.classes
        scores = tuple(Score(classes[i], i, probabilities[i]) for i in ranked)
        first = scores[0]
        abstain = ood_score = out_of_distribution = None
        if self._min_confidence is not None:
            abstain = bool(first.probability < self._min_confidence)
        if self._max_ood_score is not None:
            ood_score = np.float32(outputs["ood_score"])
            out_of_distribution = bool(ood_score > self._max_ood_score)
        return Prediction(
            model=self.manifest.name,
            version=self.manifest.version,
            label=first.label,
            index=first.index,
            confidence=first.probability,
            abstain=abstain,
            ood_score=ood_score,  # type: ignore[arg-type]  # a float32 for a float
            out_of_distribution=out_of_distribution,
            scores=scores,
        )

    def found(
        self,
        index: int,
        values_hw: NDArray[np.float32],
        view: View,
        size: tuple[int, int],
        *,
        method: str = "cam",
        evaluations: int = 1,
        against: int | None = None,
    ) -> Found:
        """Build the map of a class over `view` of an upload of `size` (width, height)."""
        box, peak = locate(values_hw, view, size)
        classes = self.manifest.classes
        rows, columns = values_hw.shape
        cam = ClassActivationMap(
            target=classes[index],
            index=index,
            method=method,
            evaluations=evaluations,
            shape=(rows, columns),
            values=values_hw,
            peak=peak,  # type: ignore[arg-type]  # a float32 for a float
            box=(box.left, box.top, box.right, box.bottom),
            against=None if against is None else classes[against],
        )
        return Found(cam, box)

    def winners(self, outputs: Mapping[str, NDArray[np.float32]]) -> list[Winner]:
        """Return a `Winner` for each of N images; `outputs` are those in `read_always`."""
        probabilities = outputs["probabilities"]
        confidences = probabilities.max(1)
        abstains = ood_flags = [False] * len(confidences)
        if self._min_confidence is not None:
            abstains = (confidences < self._min_confidence).tolist()
        if self._max_ood_score is not None:
            ood_flags = (outputs["ood_score"] > self._max_ood_score).tolist()
        indices, classes = probabilities.argmax(1).tolist(), self.manifest.classes
        return [
            Winner(classes[index], confidence, raised(abstain=abstain, out_of_distribution=ood))
            for index, confidence, abstain, ood in zip(
                indices, confidences.tolist(), abstains, ood_flags, strict=True
            )
        ]
