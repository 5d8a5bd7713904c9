"""The published figures: the test set through the service's own image and engine code."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limelight.artifact.manifest import ImageRule, Metrics
from limelight.imaging.preprocessing import picture_of, prepare
from limelight.runtime.engine import Engine
from pipeline.data.registry import Split
from pipeline.evaluation.calibration import expected_calibration_error

BATCH = 64
_READ = ("logits", "probabilities", "ood_score")


def as_served(images_nhwc: NDArray[np.uint8], rule: ImageRule) -> NDArray[np.uint8]:
    """Bring uint8 images (N, H, W, C) to the network's input as the service would an upload."""
    return np.stack([prepare(picture_of(image), rule)[0] for image in images_nhwc])


@dataclass(frozen=True, slots=True)
class Answers:
    """What is served for labelled images, read once for all that is made of it."""

    labels: Tensor
    logits: Tensor
    probabilities: Tensor
    ood_scores: NDArray[np.float32]
    temperature: float

    @property
    def confidence(self) -> NDArray[np.float32]:
        """How probable each answer is: (N,)."""
        confidence: NDArray[np.float32] = self.probabilities.amax(1).numpy()
        return confidence

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each answer is the label: (N,)."""
        right: NDArray[np.bool_] = (self.probabilities.argmax(1) == self.labels).numpy()
        return right

    def metrics(self) -> Metrics:
        """The headline figures."""
        calibrated = self.logits.double() / self.temperature
        return Metrics(
            images=len(self.labels),
            accuracy=float(self.right.mean()),
            log_loss=float(nn.functional.cross_entropy(calibrated, self.labels)),
            ece=expected_calibration_error(self.probabilities, self.labels),
        )


def answer(engine: Engine, test: Split) -> Answers:
    """Run what is served on the test set, one view an image, its images `as_served`."""
    batches = range(0, len(test), BATCH)
    parts = [engine.run(test.images[at : at + BATCH], _READ) for at in batches]
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in _READ}
    return Answers(
        labels=torch.from_numpy(test.labels),
        logits=torch.from_numpy(outputs["logits"]),
        probabilities=torch.from_numpy(outputs["probabilities"]),
        ood_scores=outputs["ood_score"],
        temperature=engine.manifest.calibration.temperature,
    )
