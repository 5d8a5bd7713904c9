"""Learning rate range test: a short run with a rising rate (Smith, 2015)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RunError
from pipeline.training.optimization.schedules import Constant, Rate
from pipeline.training.record import Batch
from pipeline.training.trainer import Trainer

FIRST, LAST, STEPS = 1e-7, 10.0, 100
# Decay of the running mean of the losses. fast.ai's 0.98 remembers half of a test of 100 steps; on
# digits8 it moves the valley for AdamW up by a factor of 5, beyond the best rate.
_MEMORY = 0.9
# Multiple of the lowest loss that ends the test, as in fast.ai.
_DIVERGED = 4.0
# Share of the steps to skip: the running mean of a few losses is still noisy.
_SETTLING = 0.1
_FEWEST = 10
# Share of the fall that still counts as the first plateau.
_PLATEAU = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class RateCurve:
    """Result of a range test."""

    rates: NDArray[np.float64]
    """Rates of the layer group with the highest: (S,), rising."""
    losses: NDArray[np.float64]
    """Smoothed, after the step at each rate: (S,)."""
    suggestions: dict[str, float]
    """Suggested peak rates: `valley` and `steepest`."""


class _Rising(Constant):
    """Rises from `first` to `last` by the same factor at each step."""

    first: float
    last: float
    count: int

    def at(self, step: int, steps: int, steps_per_epoch: int) -> Rate:
        """Return the rate of step 0 ... `count` - 1, independent of the length of the run."""
        rate = self.first * (self.last / self.first) ** (step / (self.count - 1))
        highest = self.peak if isinstance(self.peak, (int, float)) else max(self.peak)
        return Rate(rate / highest, self.momentum)


def find_rate(
    trainer: Trainer, *, steps: int = STEPS, first: float = FIRST, last: float = LAST
) -> RateCurve:
    """Train `steps` steps at rates that rise from `first` to `last`, and suggest rates.

    The test ends early when the smoothed loss is 4 times its lowest. It runs over several epochs
    if one is shorter. Layer groups keep the ratio of their rates; `first` and `last` are rates of
    the group with the highest. `trainer` must be new, have no epochs with frozen features, and not
    be used afterwards.

    Raises:
        RunError: the range is invalid, the loss diverges at once, or it does not fall.

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
    """Suggest peak rates, from rising rates (S,) and their smoothed losses (S,).

    `valley` is two thirds along the longest fall of the loss, counted in steps, as fast.ai's
    default is (https://docs.fast.ai/callback.schedule.html). The plateau at its beginning, up to a
    tenth of the way down, does not count, so that the result does not depend on the first rate. A
    fall may have interruptions: it is the longest falling subsequence. `steepest` is the rate in it
    at which the loss falls fastest with the logarithm of the rate. The first tenth of the steps is
    ignored because it is noisy.

    Raises:
        RunError: the loss does not fall.

    """
    skipped = int(_SETTLING * len(rates))
    rates, losses = rates[skipped:], losses[skipped:]
    fall = longest_fall(losses)
    if len(fall) < 2:
        raise RunError(
            f"the loss does not fall at any rate from {rates[0]:.3g} to {rates[-1]:.3g}: check "
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
    """Find the first of the longest strictly falling subsequences of losses (S,): its indices."""
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
    """Train without end, or until the trainer stops a diverging loss."""
    try:
        while True:
            yield from trainer.run_epoch()
    except RunError:
        return
