"""Published figures: predictions for the test set by the service's image and engine code."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limelight.artifact.measurements import Metrics
from limelight.runtime.engine import Engine
from models.calibrator import Calibrator
from pipeline.data.registry import Split
from pipeline.evaluation.reliability import expected_calibration_error

BATCH = 64
_OUTPUTS = ("logits", "probabilities", "ood_score")


@dataclass(frozen=True, slots=True)
class Predictions:
    """Outputs of the served graph for N labelled images."""

    labels: Tensor
    logits: Tensor
    probabilities: Tensor
    ood_scores: NDArray[np.float32]
    calibrator: Calibrator

    @property
    def confidence(self) -> NDArray[np.float32]:
        """Probability of each predicted class: (N,)."""
        confidence: NDArray[np.float32] = self.probabilities.amax(1).numpy()
        return confidence

    @property
    def correct(self) -> NDArray[np.bool_]:
        """True where the predicted class is the label: (N,)."""
        correct: NDArray[np.bool_] = (self.probabilities.argmax(1) == self.labels).numpy()
        return correct

    def metrics(self) -> Metrics:
        """Compute accuracy, log loss and calibration error."""
        calibrated = self.calibrator(self.logits.double())
        return Metrics(
            images=len(self.labels),
            accuracy=float(self.correct.mean()),
            log_loss=float(nn.functional.cross_entropy(calibrated, self.labels)),
            ece=expected_calibration_error(self.probabilities, self.labels),
        )


def predict(engine: Engine, test: Split) -> Predictions:
    """Run the engine on the test set, without TTA; its images are prepared by `as_served`."""
    batches = range(0, len(test), BATCH)
    parts = [engine.run(test.images[at : at + BATCH], _OUTPUTS) for at in batches]
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in _OUTPUTS}
    return Predictions(
        labels=torch.from_numpy(test.labels),
        logits=torch.from_numpy(outputs["logits"]),
        probabilities=torch.from_numpy(outputs["probabilities"]),
        ood_scores=outputs["ood_score"],
        calibrator=Calibrator.of(engine.manifest.calibration),
    )
