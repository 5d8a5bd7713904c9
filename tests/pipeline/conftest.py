"""A cache for each test, and a small run that is trained once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.evaluation import ood_detection as out_of_distribution
from pipeline.evaluation import robustness
from pipeline.evaluation.maps import faithfulness
from pipeline.exporting.export import export
from pipeline.runs.run import Run, read_run
from pipeline.runs.run_plan import plan_run
from pipeline.training.recipe import Recipe


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "limelight"


@pytest.fixture(autouse=True, scope="session")
def _evaluate_few_images() -> Iterator[None]:
    """Evaluate few images: the figures of published models need more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faithfulness, "EXPLAINED", 20)
        patch.setattr(out_of_distribution, "OOD_IMAGES", 40)
        patch.setattr(robustness, "CORRUPTED", 20)
        yield


@pytest.fixture(scope="session")
def digits8_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """digits8 with its own recipe and seed 0: seconds on two cores."""
    folder = tmp_path_factory.mktemp("runs") / "digits8"
    recipe = Recipe.load("digits8")
    run = plan_run(
        "digits8", recipe_name="digits8", recipe=recipe, seed=0, device=torch.device("cpu")
    )
    run.train(folder)
    return read_run(folder)


@pytest.fixture(scope="session")
def artifact_folder(digits8_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as an artefact with all optional files; tests must not change it."""
    return export(digits8_run, tmp_path_factory.mktemp("artifacts"))
