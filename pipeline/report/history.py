"""Training history of a run folder: epochs, steps, activations."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.runs.run_folder import HISTORY, read_epochs
from pipeline.runs.tensor_files import read_tensors
from pipeline.training.record import Epoch

Values = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """Values of each training step: (S,) each."""

    loss: Values
    learning_rate: Values
    momentum: Values


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerHistory:
    """Activation statistics of a layer in T recorded batches."""

    name: str
    steps: NDArray[np.int64]
    """Step numbers from 1: (T,), like the next three."""
    means: Values
    deviations: Values
    near_zero: Values
    histograms: Values
    """Counts: (T, B)."""
    span: tuple[float, float]
    """First and last edge of the bins."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunHistory:
    """Training history of a run; an older run has epochs only."""

    epochs: tuple[Epoch, ...]
    steps: Steps | None
    layers: tuple[LayerHistory, ...]


def read_history(folder: Path) -> RunHistory:
    """Read a run's epochs and, if recorded, its steps and its layers' activations.

    Raises:
        RunError: the history is incomplete.

    """
    epochs = tuple(read_epochs(folder))
    if not (folder / HISTORY).is_file():
        return RunHistory(epochs=epochs, steps=None, layers=())
    tensors, metadata = read_tensors(folder / HISTORY)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    steps = Steps(**{name: arrays[name] for name in ("loss", "learning_rate", "momentum")})
    return RunHistory(epochs=epochs, steps=steps, layers=_layers(arrays, metadata))


def _layers(arrays: Mapping[str, Values], metadata: Mapping[str, str]) -> tuple[LayerHistory, ...]:
    # No activations were recorded, or the run ended before the first recording.
    if "activations.steps" not in arrays:
        return ()
    names = json.loads(metadata["layers"])
    spans = json.loads(metadata["histogram_ranges"])
    return tuple(
        LayerHistory(
            name=name,
            steps=arrays["activations.steps"].astype(np.int64),
            means=arrays["activations.means"][at],
            deviations=arrays["activations.deviations"][at],
            near_zero=arrays["activations.near_zero"][at],
            histograms=arrays["activations.histograms"][at],
            span=(low, high),
        )
        for at, (name, (low, high)) in enumerate(zip(names, spans, strict=True))
    )
