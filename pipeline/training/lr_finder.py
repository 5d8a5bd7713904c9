"""The learning rate range test: a short training at ever higher rates (Smith, 2015)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RunError
from pipeline.training.callbacks import Batch
from pipeline.training.schedules import Constant, Rate
from pipeline.training.trainer import Trainer

FIRST, LAST, STEPS = 1e-7, 10.0, 100
# Weight of what was before in the running mean of the losses. fast.ai's 0.98 remembers half of a
# test of 100 steps; on digits8 it moves the valley for AdamW up by a factor of 5, past its best.
_MEMORY = 0.9
# Multiple of the lowest loss that ends the test, as in fast.ai's.
_DIVERGED = 4.0
# The running mean of a few losses is as noisy as they are.
_SETTLING = 0.1
_FEWEST = 10
# Share of the fall after which the loss has left its plateau.
_PLATEAU = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class RateCurve:
    """What a range test found."""

    rates: NDArray[np.float64]
    """Of the layer group that learns fastest: (S,), rising."""
    losses: NDArray[np.float64]
    """Smoothed, after the step at each rate: (S,)."""
    suggestions: dict[str, float]
    """Rates to train with: `valley`, and `steepest`."""


class _Rising(Constant):
    """From `first` to `last`, by the same factor at each step."""

    first: float
    last: float
    count: int

    def at(self, step: int, steps: int, steps_per_epoch: int) -> Rate:
        """The rate of step 0 ... `count` - 1, whatever the length of the training."""
        rate = self.first * (self.last / self.first) ** (step / (self.count - 1))
        highest = self.peak if isinstance(self.peak, (int, float)) else max(self.peak)
        return Rate(rate / highest, self.momentum)


def find_rate(
    trainer: Trainer, *, steps: int = STEPS, first: float = FIRST, last: float = LAST
) -> RateCurve:
    """Train `steps` steps at rates that rise from `first` to `last`, and suggest some.

    The test ends early when the smoothed loss is 4 times its lowest. It runs over several epochs
    if one is shorter. Layer groups keep the ratio of their rates, and `first` and `last` are the
    highest group's. `trainer` has not begun, has no epochs with frozen features, and is of no
    more use afterwards.

    Raises:
        RunError: the range is none, the loss diverges at once, or it does not fall.

    """
    if steps < _FEWEST or not 0 < first < last:
        raise RunError(
            f"{steps} steps from {first:g} to {last:g} are no test: at least {_FEWEST} steps are "
            "needed, and rates that rise"
        )
    trainer.schedule = _Rising(
        peak=trainer.recipe.schedule.peak, first=first, last=last, count=steps
    )
    rates, losses = [], []
    smoothed = lowest = math.inf
    total = 0.0
    for step, batch in zip(range(1, steps + 1), _batches(trainer), strict=False):
        total = _MEMORY * total + (1 - _MEMORY) * float(batch.loss)
        smoothed = total / (1 - _MEMORY**step)
        lowest = min(lowest, smoothed)
        if not smoothed <= _DIVERGED * lowest:
            break
        rates.append(batch.learning_rate)
        losses.append(smoothed)
    if len(rates) < _FEWEST:
        raise RunError(
            f"the loss diverges at once, at a rate of {first:g} already: begin the range lower"
        )
    curve = np.array(rates), np.array(losses)
    return RateCurve(rates=curve[0], losses=curve[1], suggestions=suggest(*curve))


def suggest(rates: NDArray[np.float64], losses: NDArray[np.float64]) -> dict[str, float]:
    """Rates to train with, from rising rates (S,) and their smoothed losses (S,).

    `valley` is two thirds along the longest fall of the loss, counted in steps, as fast.ai's
    default is (https://docs.fast.ai/callback.schedule.html); but the plateau at its beginning, up
    to a tenth of the way down, is left out, so that it is the same wherever the range began. A
    fall may be interrupted: it is the longest falling subsequence. `steepest` is where in it the
    loss falls fastest with the logarithm of the rate. The first tenth of the steps is left out,
    for its noise.

    Raises:
        RunError: the loss does not fall.

    """
    skipped = int(_SETTLING * len(rates))
    rates, losses = rates[skipped:], losses[skipped:]
    fall = longest_fall(losses)
    if len(fall) < 2:
        raise RunError(
            f"the loss does not fall at any rate from {rates[0]:.3g} to {rates[-1]:.3g}: look at "
            "the images and labels, or take more steps"
        )
    top, bottom = fall[0], fall[-1]
    begun = losses[top] - _PLATEAU * (losses[top] - losses[bottom])
    edge = next(at for at in fall if losses[at] <= begun)
    valley = edge + round((bottom - edge) * 2 / 3)
    slopes = np.gradient(losses, np.log(rates))
    steepest = top + slopes[top : bottom + 1].argmin()
    return {"valley": float(rates[valley]), "steepest": float(rates[steepest])}


def longest_fall(losses: NDArray[np.float64]) -> list[int]:
    """Indices of the longest strictly falling subsequence of losses (S,), the first if several."""
    length, before = np.ones(len(losses), int), np.full(len(losses), -1)
    for at, loss in enumerate(losses):
        higher = np.flatnonzero(losses[:at] > loss)
        if len(higher):
            before[at] = higher[length[higher].argmax()]
            length[at] = length[before[at]] + 1
    fall, at = [], int(length.argmax())
    while at >= 0:
        fall.append(at)
        at = int(before[at])
    return fall[::-1]


def _batches(trainer: Trainer) -> Iterator[Batch]:
    """Steps without end, up to the one at which training gives up."""
    try:
        while True:
            yield from trainer.run_epoch()
    except RunError:
        return
