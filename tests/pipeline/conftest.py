"""A cache of the tests' own, and a small run that is trained once."""

from pathlib import Path

import pytest
import torch

from pipeline.datasets import load_dataset, split_validation
from pipeline.recipe import Recipe
from pipeline.runs import Run, RunWriter, describe_run, read_run
from pipeline.training import Normalisation, train


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "limelight"


@pytest.fixture(scope="session")
def digits8_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """digits8 with its own recipe and seed 0: seconds on two cores."""
    recipe, device = Recipe.load("digits8"), torch.device("cpu")
    dataset = load_dataset("digits8")
    fit, validation = split_validation(dataset.train, recipe.validation, 0)
    normalisation = Normalisation.of(fit.images)
    folder = tmp_path_factory.mktemp("runs") / "digits8"
    config = describe_run(
        dataset,
        source="digits8",
        image_size=64,
        recipe_name="digits8",
        recipe=recipe,
        seed=0,
        device=device,
        normalisation=normalisation,
    )
    writer = RunWriter(folder, config)
    train(
        recipe,
        fit,
        validation,
        classes=10,
        normalisation=normalisation,
        device=device,
        seed=0,
        on_epoch=writer.epoch,
    )
    return read_run(folder)
