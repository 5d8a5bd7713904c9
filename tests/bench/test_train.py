"""The stopwatch of `bench/train.py`, on the small digits."""

from pathlib import Path

import pytest

from bench.train import CONTESTANTS, Contestant, Result, measure, stay_on_machine
from pipeline.errors import PipelineError
from pipeline.training.record import Epoch
from tests.pipeline.training.small_trainings import CPU

SMALL = Contestant(name="small", recipe="digits8", changes={"epochs": 3})


def an_epoch(number: int, accuracy: float) -> Epoch:
    return Epoch(
        epoch=number,
        train_loss=1.0,
        validation_loss=1.0,
        validation_accuracy=accuracy,
        learning_rate=0.1,
        seconds=10.0,
    )


def test_a_mark_is_reached_at_the_end_of_the_first_epoch_that_has_it() -> None:
    epochs = [an_epoch(1, 0.5), an_epoch(2, 0.849), an_epoch(3, 0.83), an_epoch(4, 0.9)]
    result = Result.of("net", epochs, planned=5)
    assert result.reached == {"82.3%": 20.0, "84.9%": 20.0, "94.0%": None, "96.0%": None}
    assert result.best == 0.9
    times = ("20 s", "20 s", "not reached", "not reached")
    assert result.row() == ("net", *times, "90.00%", "4 of 5 (out of time)", "40 s")


def test_a_contestant_that_ran_out_of_time_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = measure(SMALL, tmp_path / "whole", CPU, minutes=1, seed=0)
    assert whole.epochs == whole.planned == 3
    cut = measure(SMALL, tmp_path / "cut", CPU, minutes=1e-6, seed=0)
    assert cut.epochs == 1
    # Its time is over still.
    assert measure(SMALL, tmp_path / "cut", CPU, minutes=cut.seconds / 120, seed=0) == cut
    again = measure(SMALL, tmp_path / "cut", CPU, minutes=1, seed=0)
    assert (again.epochs, again.best) == (3, whole.best)
    assert again.seconds > cut.seconds
    assert measure(SMALL, tmp_path / "cut", CPU, minutes=1, seed=0) == again


def test_another_training_is_not_taken_for_the_contestants(tmp_path: Path) -> None:
    measure(SMALL, tmp_path, CPU, minutes=1e-6, seed=0)
    with pytest.raises(PipelineError, match="has a run with another seed; choose another --out"):
        measure(SMALL, tmp_path, CPU, minutes=1, seed=1)


def test_times_of_two_machines_are_not_compared(tmp_path: Path) -> None:
    here: dict[str, object] = {"machine": "CPU, 2 cores", "bfloat16": True, "threads": 2}
    stay_on_machine(tmp_path, here)
    stay_on_machine(tmp_path, here)
    with pytest.raises(PipelineError, match="begun on another machine"):
        stay_on_machine(tmp_path, here | {"bfloat16": False})


def test_each_contestant_has_a_recipe_and_the_same_images_to_learn() -> None:
    recipes = [each.load() for each in CONTESTANTS]
    assert {(recipe.data, recipe.validation) for recipe in recipes} == {("cifar10", 0.1)}
    long = recipes[-1]
    # The tail's share of the steps is what the name says.
    assert long.schedule.averaged_from(long.epochs * 87) == 36 * 87
