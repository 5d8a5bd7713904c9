"""`--track`: write curves and hyperparameters to TensorBoard or MLflow during training."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pydantic import JsonValue

from pipeline.errors import PipelineError
from pipeline.runs.tracking_backends import Field, MLflow, TensorBoard, TrackingBackend
from pipeline.training.activation_stats import ActivationStatistics
from pipeline.training.callbacks import Callback
from pipeline.training.record import Batch, Record
from pipeline.training.trainer import Trainer

BACKENDS: dict[str, Callable[[Path], TrackingBackend]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
}
# Reading a loss makes a GPU wait.
_STEPS_BETWEEN_POINTS = 10
# MLflow accepts 6,000 characters, which nobody would read.
_LONGEST = 500


class Tracker(Callback):
    """Callback that writes curves over the steps to a backend.

    `loss/batch`, `rate` and `momentum` of every tenth step; `loss/train`, `loss/validation` and
    `accuracy/validation` of every epoch; `activations/mean/LAYER` and
    `activations/deviation/LAYER` of the batches that `activations` measured.
    """

    def __init__(
        self,
        backend: TrackingBackend,
        fields: Mapping[str, Field],
        activations: ActivationStatistics | None = None,
    ) -> None:
        self._backend = backend
        self._fields = fields
        self._activations = activations
        self._written = 0

    def begin_training(self, trainer: Trainer) -> None:
        """Open the backend."""
        self._written = trainer.step
        self._backend.begin(self._fields, resumed=trainer.step > 0)

    def end_batch(self, trainer: Trainer, batch: Batch) -> None:
        """Write the loss and the schedule at every tenth step."""
        if batch.step % _STEPS_BETWEEN_POINTS == 0:
            self._backend.scalar("loss/batch", float(batch.loss), batch.step)
            self._backend.scalar("rate", batch.learning_rate, batch.step)
            self._backend.scalar("momentum", batch.momentum, batch.step)

    def end_epoch(self, trainer: Trainer, record: Record) -> None:
        """Write the results of the epoch."""
        epoch, step = record.epochs[-1], trainer.step
        self._backend.scalar("loss/train", epoch.train_loss, step)
        self._backend.scalar("loss/validation", epoch.validation_loss, step)
        self._backend.scalar("accuracy/validation", epoch.validation_accuracy, step)
        if self._activations is not None:
            for name, value, watched in _points(self._activations, after=self._written):
                self._backend.scalar(name, value, watched)
        self._written = step
        self._backend.flush()

    def end_training(self, trainer: Trainer) -> None:
        """Close the backend."""
        self._backend.end()


def tracker(
    name: str,
    folder: Path,
    config_fields: Mapping[str, JsonValue],
    activations: ActivationStatistics | None = None,
) -> Tracker:
    """Make a callback that writes the run in `folder` to the backend `name`.

    Nothing is written to `folder` before training begins. `config_fields` may be nested;
    `activations` must come before the tracker in the list of callbacks.

    Raises:
        PipelineError: there is no such backend, its library is missing, or it cannot be written to.

    """
    if name not in BACKENDS:
        raise PipelineError(f"--track {name!r}: there are {' and '.join(BACKENDS)}")
    try:
        backend = BACKENDS[name](folder)
    except ImportError as error:
        raise PipelineError(
            f"--track {name} needs a library that is missing ({error}): "
            "pip install 'limelight[track]'"
        ) from error
    return Tracker(backend, flattened(config_fields), activations)


def flattened(fields: Mapping[str, JsonValue], prefix: str = "") -> dict[str, Field]:
    """Flatten nested fields to dotted names; lists become JSON, and None is left out."""
    flat: dict[str, Field] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            flat[prefix + name] = _shortened(json.dumps(value))
        elif isinstance(value, str):
            flat[prefix + name] = _shortened(value)
        elif value is not None:
            flat[prefix + name] = value
    return flat


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _points(activations: ActivationStatistics, *, after: int) -> Iterator[tuple[str, float, int]]:
    """Yield name, value and step of each mean and deviation after the step `after`."""
    state = activations.state()
    for column, step in enumerate(state["steps"].tolist() if state else []):
        if step > after:
            for row, layer in enumerate(activations.layers):
                yield f"activations/mean/{layer}", float(state["means"][row, column]), step
                deviation = float(state["deviations"][row, column])
                yield f"activations/deviation/{layer}", deviation, step
