"""A command reads its data once and splits it once."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
from sklearn.model_selection import StratifiedShuffleSplit

from pipeline.errors import RunError
from pipeline.report.study import study
from pipeline.runs.run import read_run
from pipeline.runs.run_plan import complete_run, plan_run
from pipeline.training.recipe import Recipe
from tests.pipeline.cli.running import limelight
from tests.pipeline.data.test_registry import make_folder
from tests.pipeline.training.small_trainings import CPU


class Counts:
    """Calls of the loader of digits8 and of scikit-learn's split."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loads = self.splits = 0
        load, split = sklearn.datasets.load_digits, StratifiedShuffleSplit.split

        def counting_load() -> Any:
            self.loads += 1
            return load()

        def counting_split(splitter: StratifiedShuffleSplit, *arguments: Any) -> Any:
            self.splits += 1
            return split(splitter, *arguments)

        monkeypatch.setattr(sklearn.datasets, "load_digits", counting_load)
        monkeypatch.setattr(StratifiedShuffleSplit, "split", counting_split)

    def take(self) -> tuple[int, int]:
        taken = self.loads, self.splits
        self.loads = self.splits = 0
        return taken


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    return Counts(monkeypatch)


def test_train_report_export_and_lr_find_each_load_and_split_once(
    counts: Counts, tmp_path: Path
) -> None:
    def run(*arguments: str) -> tuple[int, int]:
        done = limelight(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return counts.take()

    assert run("train", "digits8", "--epochs", "1", "--out", "run", "--no-report") == (1, 1)
    assert run("report", "run", "--no-tta") == (1, 1)
    assert run("export", "run", "--no-layercam") == (1, 1)
    recipe = files("pipeline.training.recipes").joinpath("digits8.toml").read_text()
    (tmp_path / "short.toml").write_text(recipe.replace("epochs = 12", "epochs = 1"))
    short = ("--recipe", "short.toml", "--steps", "30", "--train")
    assert run("lr-find", "digits8", *short) == (1, 1)


def test_ablate_loads_once_for_all_variants_and_seeds(counts: Counts, tmp_path: Path) -> None:
    done = limelight(
        "ablate", "digits8", "--field", "pool", "--epochs", "1", "--seeds", "2", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    loads, splits = counts.take()
    assert loads == 1
    assert 2 <= splits <= 4  # two seeds, and two variants with each


def test_completed_run_shares_the_data_of_its_plan(counts: Counts, tmp_path: Path) -> None:
    recipe = Recipe.load("digits8", epochs=1)
    plan = plan_run("digits8", recipe_name="digits8", recipe=recipe, seed=0, device=CPU)
    run = complete_run(plan, tmp_path / "run")
    assert run.data is plan.data
    study(run, device="cpu", tta=False)
    assert counts.take() == (1, 1)


def test_run_is_not_read_with_other_data_than_it_was_trained_on(tmp_path: Path) -> None:
    recipe = Recipe.load("digits8", epochs=1)
    plan = plan_run("digits8", recipe_name="digits8", recipe=recipe, seed=0, device=CPU)
    plan.train(tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace(plan.data.sha256, "0" * 64))
    changed = "digits8 has changed since this run was trained"
    with pytest.raises(RunError, match=changed):
        read_run(tmp_path / "run", data=plan.data)
    run = read_run(tmp_path / "run")
    with pytest.raises(RunError, match=changed):
        _ = run.data


def test_class_that_was_renamed_after_training_is_noticed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", 12)
    recipe = Recipe.load("folder", epochs=1, batch_size=4, validation=0.25)
    plan = plan_run(
        str(folder), recipe_name="folder", recipe=recipe, seed=0, device=CPU, image_size=16
    )
    plan.train(tmp_path / "run")
    (folder / "red").rename(folder / "rouge")
    with pytest.raises(
        RunError, match="has the classes blue, rouge, and this run was trained on blue, red: give"
    ):
        _ = read_run(tmp_path / "run").data


def test_runs_of_several_seeds_can_hold_out_the_same_images() -> None:
    """Also when the data of a run is read again."""

    def validation(seed: int, **changes: Any) -> bytes:
        recipe = Recipe.load("digits8", **changes)
        plan = plan_run("digits8", recipe_name="digits8", recipe=recipe, seed=seed, device=CPU)
        held_out, again = (
            np.asarray(data.validation.images[:]).tobytes()
            for data in (plan.data, plan.config.read_data())
        )
        assert again == held_out
        return held_out

    assert validation(1) != validation(0)
    assert validation(1, validation_seed=0) == validation(2, validation_seed=0) == validation(0)
