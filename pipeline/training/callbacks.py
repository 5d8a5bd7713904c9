"""Callback interface of the training loop: callbacks observe a run and do not change it."""

from typing import TYPE_CHECKING

from pydantic import JsonValue

from pipeline.training.record import Batch, Record

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.training.trainer import Trainer


class Callback:
    """Base class: does nothing at any event. Callbacks are called in order."""

    def begin_training(self, trainer: "Trainer") -> None:
        """Prepare, before the first batch of a run or after a resume."""

    def begin_batch(self, trainer: "Trainer") -> None:
        """Prepare, before the forward pass of the step `trainer.step` + 1."""

    def end_batch(self, trainer: "Trainer", batch: Batch) -> None:
        """Observe a step, after the update of the weights."""

    def end_epoch(self, trainer: "Trainer", record: Record) -> None:
        """Observe an epoch, which was validated and is the last of `record`."""

    def end_training(self, trainer: "Trainer") -> None:
        """Clean up, after the last epoch or a failure."""

    def state(self) -> "dict[str, Tensor]":
        """Return what a resumed run needs; it is saved at the end of each epoch."""
        return {}

    def metadata(self) -> dict[str, JsonValue]:
        """Return what a reader of the saved tensors needs to know."""
        return {}

    def restore(self, state: "dict[str, Tensor]") -> None:
        """Continue from a `state`."""
