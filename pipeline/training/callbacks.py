"""What may watch a training: called at its events, never changing its course."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pydantic import JsonValue
from torch import Tensor

if TYPE_CHECKING:
    from pipeline.training.trainer import Record, Trainer


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """What one epoch came to; a line of `epochs.jsonl`."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float

    @property
    def rank(self) -> tuple[float, float]:
        """Higher is better: by validation accuracy, then by loss."""
        return self.validation_accuracy, -self.validation_loss

    def as_json(self) -> dict[str, float]:
        """The fields by name, as `epochs.jsonl` has them."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One step of a training, just taken."""

    step: int
    """From 1."""
    steps: int
    """Of the whole training."""
    epoch: int
    loss: Tensor
    """Of the batch, over all processes: a scalar on the training's device."""
    learning_rate: float
    """The highest of all layer groups'."""
    momentum: float


class Callback:
    """Does nothing at every event. Later callbacks see what earlier ones did."""

    def begin_training(self, trainer: "Trainer") -> None:
        """Before the first batch, or the first one after a resume."""

    def begin_batch(self, trainer: "Trainer") -> None:
        """Before the forward pass of the step `trainer.step` + 1."""

    def end_batch(self, trainer: "Trainer", batch: Batch) -> None:
        """After the weights moved."""

    def end_epoch(self, trainer: "Trainer", record: "Record") -> None:
        """After an epoch was evaluated, which `record` has as its last."""

    def end_training(self, trainer: "Trainer") -> None:
        """After the last epoch, or a failure."""

    def state(self) -> dict[str, Tensor]:
        """What a resumed training needs; saved at the end of each epoch."""
        return {}

    def metadata(self) -> dict[str, JsonValue]:
        """What a reader of the saved tensors needs to know about them."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
