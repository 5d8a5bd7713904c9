"""Record of a training run: its steps, its epochs, and the best of them."""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.training.weights import Weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """Results of one epoch; a line of `epochs.jsonl`."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float

    @property
    def rank(self) -> tuple[float, float]:
        """Sort key, higher is better: validation accuracy, then validation loss."""
        return self.validation_accuracy, -self.validation_loss

    def as_json(self) -> dict[str, float]:
        """Return the fields by name, as in `epochs.jsonl`."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The step that was just taken."""

    step: int
    """Number of the step, from 1."""
    steps: int
    """Number of steps in the whole run."""
    epoch: int
    loss: "Tensor"
    """Mean over the batch and all processes: a scalar on the trainer's device."""
    learning_rate: float
    """Highest rate of all layer groups."""
    momentum: float


@dataclass(kw_only=True, slots=True)
class Record:
    """Epochs so far, and the weights of the best: highest validation accuracy, then lowest loss."""

    epochs: list[Epoch] = field(default_factory=list)
    weights: "Weights" = field(default_factory=dict)

    @property
    def best(self) -> Epoch:
        """Epoch whose weights are kept."""
        return max(self.epochs, key=lambda epoch: epoch.rank)

    @property
    def improved(self) -> bool:
        """True if the last epoch is the best."""
        return self.best is self.epochs[-1]

    def stalled(self, patience: int) -> bool:
        """Tell whether the last `patience` epochs were no better than one before; 0 is endless."""
        if not patience or not self.epochs:
            return False
        return len(self.epochs) - 1 - self.epochs.index(self.best) >= patience
