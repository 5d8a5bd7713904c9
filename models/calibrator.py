"""Calibrated logits: temperature scaling, and Prelec's function, of which it is a case."""

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from limelight.artifact.measurements import Calibration


@dataclass(frozen=True, slots=True)
class Calibrator:
    """Function of logits (N, K) whose softmax is calibrated probabilities.

    With an exponent of 1, it divides the logits by the temperature (Guo et al., 2017, arXiv
    1706.04599). With another, the probability p of each class becomes
    exp(-(-ln p)^exponent / temperature), and the softmax divides by their sum. This is the function
    of Prelec (1998, Econometrica 66(3)). Compared with a temperature alone, an exponent above 1
    raises a high confidence and lowers the others. Networks that were trained with label smoothing,
    CutMix or teachers need this: they are too cautious where they are sure, and too bold elsewhere.
    The order of the classes stays.
    """

    temperature: float = 1.0
    exponent: float = 1.0

    @classmethod
    def of(cls, calibration: Calibration) -> Self:
        """Make the calibrator that a manifest describes."""
        return cls(calibration.temperature, calibration.exponent)

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the calibrated logits: (N, K) -> (N, K)."""
        if self.exponent == 1:
            return logits / self.temperature
        return -surprisal(logits).pow(self.exponent) / self.temperature


def surprisal(logits: Tensor) -> Tensor:
    """Compute -ln p for the softmax p of logits: (N, K) -> (N, K), at least 0."""
    # A rounded probability may be above 1.
    return (-logits.log_softmax(1)).relu()
