"""Range test, on curves with a known derivative and on the small digits."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.api import scaled_rates
from pipeline.cli.commands.lr_find import lr_find
from pipeline.errors import RunError
from pipeline.runs.run_config import read_config
from pipeline.training import lr_finder
from pipeline.training.loop import train
from pipeline.training.lr_finder import find_rate, longest_fall, suggest
from pipeline.training.recipe import Recipe
from pipeline.training.record import Batch
from pipeline.training.trainer import Trainer
from tests.pipeline.training.small_trainings import small_trainer, splits

_, VALIDATION = splits()
RATES = np.geomspace(1e-7, 10, 801)


def make_trainer(**changes: object) -> Trainer:
    return small_trainer(Recipe.load("digits8", epochs=2).but(**changes))


class OfLosses(Trainer):
    """Returns the losses of a list instead of training."""

    def __init__(self, losses: list[float]) -> None:
        self.losses = losses
        self.recipe = Recipe.load("digits8")
        self.step = 0

    def run_epoch(self, callbacks: object = ()) -> Iterator[Batch]:
        for _ in range(7):  # an epoch is shorter than the test
            if self.step == len(self.losses):
                raise RunError("diverges")
            rate = self.schedule.at(self.step, 0, 0)
            self.step += 1
            assert isinstance(self.recipe.schedule.peak, float)
            yield Batch(
                step=self.step,
                steps=0,
                epoch=0,
                loss=torch.tensor(self.losses[self.step - 1], dtype=torch.float64),
                learning_rate=rate.share * self.recipe.schedule.peak,
                momentum=rate.momentum,
            )


def test_suggestions_on_a_logistic_curve_match_calculus() -> None:
    # A logistic fall over log10 of the rate, centred at 1e-3, and a rise from 1e-1 on.
    decades = np.log10(RATES)
    losses = 2.3 - 2 / (1 + np.exp(-4 * (decades + 3)))
    losses += 10 * np.clip(decades + 1, 0, None) ** 2
    found = suggest(RATES, losses)
    # Its slope is greatest at the centre.
    assert found["steepest"] == pytest.approx(1e-3, rel=0.03)
    # A tenth of the fall is reached where the logistic is 1 / 10: log10 is -3 - ln(9) / 4. It ends
    # at about -1, since the logistic hardly falls after that.
    begun = -3 - np.log(9) / 4
    assert np.log10(found["valley"]) == pytest.approx(begun + (-1 - begun) * 2 / 3, abs=0.02)


def test_valley_does_not_depend_on_the_first_rate() -> None:
    decades = np.log10(RATES)
    losses = 2.3 - 2 / (1 + np.exp(-4 * (decades + 2)))
    whole, part = suggest(RATES, losses), suggest(RATES[200:], losses[200:])
    assert whole["valley"] == pytest.approx(part["valley"], rel=0.02)


def test_suggestions_on_a_quadratic_curve_match_calculus() -> None:
    losses = (np.log10(RATES) + 2) ** 2
    found = suggest(RATES, losses)
    assert found["steepest"] == pytest.approx(RATES[80], rel=0.03)  # the first tenth is left out
    # From x = -6.2 to 0, of (x + 2)^2: a tenth of the fall is reached at x + 2 = -sqrt(0.9) * 4.2.
    begun = -2 - np.sqrt(0.9) * 4.2
    assert np.log10(found["valley"]) == pytest.approx(begun + (-2 - begun) * 2 / 3, abs=0.02)


def test_longest_fall_equals_an_exhaustive_search() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        losses = rng.permutation(9).astype(float)
        longest = max(
            size
            for size in range(1, 10)
            for chosen in combinations(range(9), size)
            if (np.diff(losses[list(chosen)]) < 0).all()
        )
        fall = longest_fall(losses)
        assert (np.diff(losses[fall]) < 0).all()
        assert (np.diff(fall) > 0).all()
        assert len(fall) == longest


def test_loss_that_never_falls_is_rejected() -> None:
    with pytest.raises(RunError, match=r"does not fall at any rate from .* or take more steps"):
        suggest(RATES, np.linspace(1, 2, len(RATES)))


def test_rates_rise_by_the_same_factor_over_several_epochs() -> None:
    losses = list(np.linspace(3, 1, 50))
    trainer = OfLosses(losses)
    curve = find_rate(trainer, steps=50)
    np.testing.assert_allclose(curve.rates, np.geomspace(1e-7, 10, 50), rtol=1e-9)


def test_losses_are_an_exponentially_weighted_mean() -> None:
    losses = np.concatenate([np.linspace(3, 1, 40), np.linspace(1, 2, 10)])
    curve = find_rate(OfLosses(list(losses)), steps=50)
    for step in range(50):
        weights = lr_finder._MEMORY ** np.arange(step, -1, -1)
        expected = np.average(losses[: step + 1], weights=weights)
        assert curve.losses[step] == pytest.approx(expected)


def test_range_test_ends_at_four_times_the_lowest_loss() -> None:
    trainer = OfLosses([*np.linspace(3, 1, 40), *[1000.0] * 60])
    curve = find_rate(trainer, steps=100)
    assert trainer.step == 41
    assert len(curve.rates) == len(curve.losses) == 40


@pytest.mark.parametrize("last", [float("nan"), float("inf")])
def test_range_test_ends_at_a_loss_that_is_not_finite(last: float) -> None:
    curve = find_rate(OfLosses([*np.linspace(3, 1, 40), last, last]), steps=100)
    assert len(curve.rates) == 40
    assert np.isfinite(curve.losses).all()


def test_range_test_ends_where_training_stops() -> None:
    assert len(find_rate(OfLosses(list(np.linspace(3, 1, 30))), steps=100).rates) == 30


def test_range_that_diverges_at_once_is_rejected() -> None:
    with pytest.raises(RunError, match=r"diverges at once, at a rate of 1e\+10 .*begin .* lower"):
        find_rate(make_trainer(), first=1e10, last=1e20)


@pytest.mark.parametrize(
    ("steps", "first", "last"), [(5, 1e-7, 10.0), (100, 1.0, 0.1), (100, 0.0, 1.0)]
)
def test_invalid_range_is_rejected(steps: int, first: float, last: float) -> None:
    with pytest.raises(RunError, match="are no test: at least 10 steps"):
        find_rate(make_trainer(), steps=steps, first=first, last=last)


def accuracy(rate: float) -> float:
    trainer = make_trainer(schedule__peak=rate)
    return train(trainer, VALIDATION).epochs[-1].validation_accuracy


def test_suggested_rates_train_better_than_much_lower_ones() -> None:
    curve = find_rate(make_trainer())
    for rate in curve.suggestions.values():
        assert accuracy(rate) > max(0.8, accuracy(rate / 30) + 0.3)


def test_layer_groups_keep_the_ratio_of_their_rates() -> None:
    trainer = make_trainer(schedule__peak=(0.001, 0.1))
    curve = find_rate(trainer, steps=20, last=0.1)
    assert curve.rates[-1] == pytest.approx(0.1)
    rates = sorted({group["lr"] for group in trainer.optimizers._all[0].param_groups})
    assert rates == pytest.approx([0.001, 0.01, 0.1])


def test_command_draws_the_curve_and_prints_the_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lr_find("digits8", out=tmp_path / "curve.svg", steps=60, device="cpu")
    assert 0.003 < float(capsys.readouterr().out) < 0.5
    assert (tmp_path / "curve.svg").read_text().startswith("<svg")


def test_command_trains_with_the_suggested_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lr_find(
        "digits8",
        out=tmp_path / "curve.png",
        steps=60,
        device="cpu",
        seed=3,
        batch_size=128,
        train=True,
    )
    printed, folder = capsys.readouterr().out.split()
    config = read_config(Path(folder))
    expected = Recipe.load("digits8", batch_size=128, schedule__peak=float(printed))
    assert (config.source, config.seed, config.recipe) == ("digits8", 3, expected)
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_rates_of_several_groups_are_scaled_together(tmp_path: Path) -> None:
    recipe = Recipe.load("digits8", schedule__peak=(0.001, 0.1))
    assert scaled_rates(recipe, 0.05) == (0.0005, 0.05)
    assert scaled_rates(Recipe.load("digits8"), 0.05) == 0.05
