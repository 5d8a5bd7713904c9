"""Short training runs for tests, on scikit-learn's digits: a second or two each."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch

from models.normalization import Normalisation
from pipeline.data.registry import Split, load_dataset, split_validation
from pipeline.training.callbacks import Callback
from pipeline.training.distillation import Teachers
from pipeline.training.loop import train
from pipeline.training.recipe import Recipe
from pipeline.training.record import Record
from pipeline.training.trainer import Trainer
from pipeline.training.weights import Weights

CPU = torch.device("cpu")
DIGITS = tuple("0123456789")


@contextmanager
def float32() -> Iterator[None]:
    """Train without autocast, on every processor."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("pipeline.training.device.uses_bfloat16", lambda device: False)
        yield


@contextmanager
def float64() -> Iterator[None]:
    """Train in float64: in lower precision, rounding alone makes runs differ after some steps."""
    torch.set_default_dtype(torch.float64)
    try:
        with float32():
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def splits() -> tuple[Split, Split]:
    """Split digits8 as its own recipe does: (to fit, to validate on)."""
    return split_validation(load_dataset("digits8").train, 0.15, 0)


def small_trainer(
    recipe: Recipe,
    *,
    seed: int = 0,
    fit: Split | None = None,
    initial: Weights | None = None,
    teachers: Teachers | None = None,
) -> Trainer:
    fit = fit or splits()[0]
    return Trainer(
        recipe,
        fit,
        classes=DIGITS,
        normalisation=Normalisation.of([fit.images[:]]),
        device=CPU,
        seed=seed,
        initial=initial,
        teachers=teachers,
    )


def short_training(
    *, seed: int = 0, callbacks: Sequence[Callback] = (), epochs: int = 2, **changes: object
) -> Record:
    recipe = Recipe.load("digits8", epochs=epochs, **changes)
    return train(small_trainer(recipe, seed=seed), splits()[1], callbacks)
