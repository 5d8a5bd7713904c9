"""Results of the ladder, and variants of the ablation, on the small digits."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.atomic_files import UnwritableError
from pipeline.errors import PipelineError, RunError
from pipeline.lessons.ablation import Outcome, ablate, variants
from pipeline.lessons.ablation import as_markdown as ablation_table
from pipeline.lessons.climbing import climb
from pipeline.lessons.ladder import LADDER, Climbed, Rung, as_markdown, find_rungs
from pipeline.runs.run_folder import EPOCHS
from pipeline.training.callbacks import Callback
from pipeline.training.recipe import Recipe
from pipeline.training.record import Record
from pipeline.training.trainer import Trainer
from tests.pipeline.cli.running import limelight
from tests.pipeline.training.small_trainings import CPU

REACHED = Climbed(
    name="rung",
    lesson=0.849,
    lesson_epochs=4,
    lesson_views=False,
    fails=False,
    epochs=4,
    accuracy=0.8486,
    views_accuracy=0.84,
    log_loss=0.4,
    parameters=1000,
    seconds=2.0,
    dead=0.3,
    classes=10,
)


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, True),
        ({"accuracy": 0.8484}, False),
        ({"epochs": 5}, False),
        ({"lesson_views": True}, False),
        ({"lesson_views": True, "views_accuracy": 0.85}, True),
        ({"fails": True}, False),
        ({"fails": True, "accuracy": 0.11}, True),
        ({"lesson": None}, True),
        ({"lesson": None, "accuracy": 0.11}, False),
    ],
    ids=str,
)
def test_rung_passes_with_the_accuracy_and_epochs_of_its_lesson(
    change: dict[str, object], passed: bool
) -> None:
    assert replace(REACHED, **change).passed is passed  # type: ignore[arg-type]


def test_recipes_of_the_ladder_have_no_more_epochs_than_the_lessons() -> None:
    for rung in LADDER:
        recipe = Recipe.load(rung.recipe, **rung.changes)
        assert recipe.epochs <= rung.lesson_epochs, rung.name


def test_rung_is_trained_once(tmp_path: Path) -> None:
    rung = Rung(
        name="small",
        recipe="digits8",
        lesson=0.9,
        lesson_epochs=4,
        changes={"epochs": 4},
    )
    first = climb(rung, tmp_path / "small", seed=0, device=CPU)
    assert first.passed
    assert first.views_accuracy > 0.85
    assert 0 < first.dead < 1
    assert climb(rung, tmp_path / "small", seed=0, device=CPU) == first
    table = as_markdown([first])
    assert f"| small | 36,514 | 90.0% | 4 | {first.accuracy:.1%} | 4 |" in table
    assert table.strip().endswith("| yes |")


class _InterruptAfterTwoEpochs(Callback):
    def end_epoch(self, trainer: Trainer, record: Record) -> None:
        if trainer.epoch == 2:
            raise KeyboardInterrupt


def test_interrupted_rung_is_continued(tmp_path: Path) -> None:
    rung = Rung(name="small", recipe="digits8", lesson=0.9, lesson_epochs=4, changes={"epochs": 4})
    whole = climb(rung, tmp_path / "whole", seed=0, device=CPU)
    with pytest.raises(KeyboardInterrupt):
        climb(rung, tmp_path / "parts", seed=0, device=CPU, callbacks=[_InterruptAfterTwoEpochs()])
    parts = climb(rung, tmp_path / "parts", seed=0, device=CPU)
    assert replace(parts, seconds=whole.seconds) == whole
    # Trained, and interrupted before it was evaluated.
    (tmp_path / "parts" / "rung.json").unlink()
    assert climb(rung, tmp_path / "parts", seed=0, device=CPU) == parts


def test_rung_of_another_seed_is_rejected(tmp_path: Path) -> None:
    rung = Rung(name="small", recipe="digits8", lesson=0.9, lesson_epochs=4, changes={"epochs": 1})
    climb(rung, tmp_path, seed=0, device=CPU)
    with pytest.raises(PipelineError, match="has a run with another seed"):
        climb(rung, tmp_path, seed=1, device=CPU)


def test_dead_network_counts_as_a_failed_rung(
    tmp_path: Path,
) -> None:
    rung = Rung(
        name="dead",
        recipe="digits8",
        lesson=0.11,
        lesson_epochs=2,
        fails=True,
        changes={
            "epochs": 2,
            "network__norm": "none",
            "optimizer__kind": "adamw",
            "schedule": {"kind": "constant", "peak": 0.06},
        },
    )
    dead = climb(rung, tmp_path / "dead", seed=0, device=CPU)
    assert dead.passed
    assert dead.dead > 0.9
    assert dead.seeds == 5
    results = [json.loads(file.read_text()) for file in (tmp_path / "dead").glob("*/rung.json")]
    accuracies = sorted(result["accuracy"] for result in results)
    assert accuracies[2] == dead.accuracy
    assert dead.failed == sum(accuracy <= 0.15 for accuracy in accuracies) >= 3
    assert f"| dead (median of 5 seeds, {dead.failed} fail) |" in as_markdown([dead])


def test_only_the_named_rungs_are_found() -> None:
    assert [rung.folder for rung in find_rungs(["convnet", "simplenet"])] == [
        "simplenet",
        "convnet",
    ]
    assert find_rungs([]) == list(LADDER)
    with pytest.raises(PipelineError, match=r"no rung nothing; there are: .*simplenet"):
        find_rungs(["nothing"])


def test_each_variant_changes_one_option() -> None:
    recipe = Recipe.load("resnet-max")
    found = dict(variants(recipe, ["order", "norm", "pool"]))
    assert set(found) == {
        "as it is", "order = norm-relu", "norm = batch", "norm = group", "norm = layer",
        "norm = none", "pool = average",
    }  # fmt: skip
    assert found["as it is"] == recipe
    for change, variant in found.items():
        ours, theirs = recipe.model_dump(), variant.model_dump()
        changed = {key for key in ours if ours[key] != theirs[key]}
        assert changed == (set() if change == "as it is" else {"network"})
        options, others = ours["network"], theirs["network"]
        assert sum(options[key] != others[key] for key in options) == len(changed)


def test_ablation_averages_seeds_and_reports_failures(tmp_path: Path) -> None:
    def train(recipe: Recipe, seed: int, folder: Path) -> float:
        if recipe.network.pool == "max":
            raise RunError("the loss is nan")
        return 0.5 + 0.1 * seed + (0.2 - 0.1 * seed) * (recipe.network.norm == "batch")

    outcomes = ablate(variants(Recipe.load("digits8"), ["norm", "pool"]), range(2), train, tmp_path)
    by_change = {outcome.change: outcome for outcome in outcomes}
    assert by_change["as it is"].mean == pytest.approx(0.7)
    assert by_change["pool = max"] == Outcome(
        change="pool = max", accuracies=(), failure="the loss is nan"
    )
    table = ablation_table(outcomes)
    assert "| as it is | 70.0% | 70.0% to 70.0% |  |" in table
    assert "| norm = none | 55.0% | 50.0% to 60.0% | -15.0 points (-20.0 to -10.0) |" in table
    assert "| pool = max | failed: the loss is nan | | |" in table


def test_ablation_whose_base_fails_has_a_table_without_differences(tmp_path: Path) -> None:
    def train(recipe: Recipe, seed: int, folder: Path) -> float:
        if recipe.network.pool == "average" and seed == 1:
            raise RunError("the loss is nan")
        return 0.5

    table = ablation_table(
        ablate(variants(Recipe.load("digits8"), ["pool"]), range(2), train, tmp_path)
    )
    assert "| as it is | failed: the loss is nan | | |" in table
    assert "| pool = max | 50.0% | 50.0% to 50.0% |  |" in table


def test_full_disk_ends_an_ablation(tmp_path: Path) -> None:
    def train(recipe: Recipe, seed: int, folder: Path) -> float:
        raise UnwritableError(folder / "config.json", OSError("no space left"))

    with pytest.raises(UnwritableError, match=r"config\.json cannot be written: no space left"):
        ablate(variants(Recipe.load("digits8"), ["pool"]), range(2), train, tmp_path)


def test_interrupted_ablation_is_continued(tmp_path: Path) -> None:
    command = ("ablate", "digits8", "--field", "pool", "--epochs", "1", "--out", "runs")
    first = limelight(*command, cwd=tmp_path)
    assert "| pool = max |" in first.stdout
    kept = (tmp_path / "runs" / "as-it-is-0" / EPOCHS).read_bytes()
    shutil.rmtree(tmp_path / "runs" / "pool-max-0")
    assert limelight(*command, cwd=tmp_path).stdout == first.stdout
    # The result includes the time.
    assert (tmp_path / "runs" / "as-it-is-0" / EPOCHS).read_bytes() == kept
    longer = limelight(*command, "--epochs", "2", cwd=tmp_path)
    assert longer.returncode == 1
    assert "has a run with another recipe" in longer.stderr
