"""Training with few images of the user's own."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.runs.run_plan import plan_run
from pipeline.training.recipe import Recipe
from pipeline.training.small_data import recipe_for
from tests.pipeline.data.test_registry import make_folder
from tests.pipeline.training.small_trainings import CPU


@pytest.mark.parametrize(
    ("images", "batch", "epochs"),
    [
        (4, 4, 100),
        (7, 4, 100),
        (43, 4, 30),
        (114, 8, 30),
        (300, 32, 30),
        (512, 64, 30),
        (100_000, 64, 30),
    ],
)
def test_batch_and_epochs_follow_the_number_of_images(images: int, batch: int, epochs: int) -> None:
    recipe = recipe_for(Recipe.load("folder"), images)
    assert (recipe.batch_size, recipe.epochs) == (batch, epochs)
    assert recipe.schedule.peak == pytest.approx(0.1 * batch / 64)
    assert images % batch <= images / 8 or images < 32


def test_rates_of_all_layer_groups_follow_the_batch() -> None:
    recipe = recipe_for(Recipe.load("finetune"), 43)
    assert recipe.schedule.peak == pytest.approx((0.003 / 16, 0.01 / 16, 0.05 / 16))
    assert recipe.epochs == 24


def test_options_that_the_user_chose_are_kept() -> None:
    base = Recipe.load("folder", epochs=3, batch_size=16, schedule__peak=0.2)
    assert recipe_for(base, 43, keep={"epochs", "batch_size", "schedule__peak"}) == base
    some = recipe_for(base, 43, keep={"epochs", "schedule__peak"})
    assert (some.batch_size, some.epochs, some.schedule.peak) == (4, 3, 0.2)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_divide_the_batch(processes: int) -> None:
    assert recipe_for(Recipe.load("folder"), 43, processes=processes).batch_size % processes == 0


def test_published_data_sets_keep_their_recipe() -> None:
    recipe = Recipe.load("digits8", epochs=1, batch_size=512)
    plan = plan_run("digits8", recipe_name="digits8", recipe=recipe, seed=0, device=CPU)
    assert plan.fitted_to_size(()).config.recipe == recipe


def test_four_images_of_a_class_train(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", 4)
    recipe = Recipe.load("folder", network__widths=(4, 4, 8, 8))
    plan = plan_run(
        str(folder), recipe_name="folder", recipe=recipe, seed=0, device=CPU, image_size=16
    ).fitted_to_size(())
    assert (len(plan.data.fit), len(plan.data.validation), len(plan.dataset.test)) == (4, 2, 2)
    for split in (plan.data.fit, plan.data.validation, plan.dataset.test):
        assert set(np.unique(split.labels)) == {0, 1}
    record = plan.train(tmp_path / "run")
    assert record.best.validation_accuracy == 1.0
