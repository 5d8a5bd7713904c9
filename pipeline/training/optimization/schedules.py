"""Schedules: learning rate and momentum as functions of the step."""

import math
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

Rates = PositiveFloat | tuple[PositiveFloat, ...]
"""Peak rates: one for all, one for each layer group, or (first, last) with the groups between."""


class Rate(NamedTuple):
    """Learning rate and momentum of a step."""

    share: float
    """Share of the peak learning rate."""
    momentum: float


class _Schedule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def averaged_from(self, steps: int) -> int:
        """Return the first of `steps` steps whose weights are averaged."""
        return 0

    def cycle_ends(self, epochs: int) -> tuple[int, ...]:
        """Return the epochs, from 1, that end a cycle: the last one."""
        return (epochs,)


class OneCycle(_Schedule):
    """Cosine 1cycle with cyclical momentum (Smith and Topin, 2017; as in fast.ai).

    With `swa_fraction`, a phase with a constant rate follows, whose weights `Recipe.ema_decay`
    averages: stochastic weight averaging (Izmailov et al., 2018).
    """

    kind: Literal["one-cycle"] = "one-cycle"
    peak: Rates
    pct_start: float = Field(default=0.25, gt=0, lt=1)
    """Share of the steps in which the rate rises."""
    div: float = Field(default=25.0, ge=1)
    """The peak rate divided by the first rate."""
    div_final: float = Field(default=1e5, ge=1)
    """The peak rate divided by the last rate."""
    momentum: tuple[float, float, float] = (0.95, 0.85, 0.95)
    """Momentum at the start, at the peak rate, and at the end."""
    swa_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps in the SWA phase, which has the momentum of the peak."""
    swa_div: float = Field(default=4.0, ge=1)
    """The peak rate divided by the rate of the SWA phase."""

    def averaged_from(self, steps: int) -> int:
        """Return the first step of the SWA phase, or 0 if there is none."""
        return steps - round(self.swa_fraction * steps) if self.swa_fraction else 0

    def at(self, step: int, steps: int, steps_per_epoch: int) -> Rate:
        """Return the rate of step 0 ... `steps` - 1."""
        first, top, last = self.momentum
        if self.swa_fraction:
            steps = self.averaged_from(steps)
            if step >= steps:
                return Rate(1 / self.swa_div, top)
        peak_step = max(1.0, self.pct_start * steps - 1)
        if step <= peak_step:
            share = step / peak_step
            return Rate(_cosine(1 / self.div, 1, share), _cosine(first, top, share))
        share = (step - peak_step) / max(1.0, steps - 1 - peak_step)
        return Rate(_cosine(1, 1 / self.div_final, share), _cosine(top, last, share))


class WarmRestarts(_Schedule):
    """Cosine annealing that starts again, SGDR (Loshchilov and Hutter, 2016, eq. 5)."""

    kind: Literal["sgdr"] = "sgdr"
    peak: Rates
    cycle_len: int = Field(default=1, ge=1)
    """Epochs of the first cycle."""
    cycle_mult: int = Field(default=1, ge=1)
    """Length of each cycle divided by that of the one before."""
    momentum: float = 0.9

    def at(self, step: int, steps: int, steps_per_epoch: int) -> Rate:
        """Return the rate of step 0 ... `steps` - 1; cycles fall from the peak to near zero."""
        length = self.cycle_len * steps_per_epoch
        while step >= length:
            step -= length
            length *= self.cycle_mult
        return Rate(_cosine(1, 0, step / length), self.momentum)

    def cycle_ends(self, epochs: int) -> tuple[int, ...]:
        """Return the epochs, from 1, that end a cycle, or the run before a cycle has ended."""
        ends, length, end = [], self.cycle_len, 0
        while end < epochs:
            end = min(end + length, epochs)
            ends.append(end)
            length *= self.cycle_mult
        return tuple(ends)


class Constant(_Schedule):
    """The same rate at every step."""

    kind: Literal["constant"] = "constant"
    peak: Rates
    momentum: float = 0.9

    def at(self, step: int, steps: int, steps_per_epoch: int) -> Rate:
        """Return the rate, which is the same for all steps."""
        return Rate(1.0, self.momentum)


Schedule = Annotated[OneCycle | WarmRestarts | Constant, Field(discriminator="kind")]


def spread(peak: Rates, groups: int) -> list[float]:
    """Compute a rate for each layer group, from one rate, all rates, or the first and the last.

    Rates between the first and the last are spaced geometrically (Howard and Ruder, 2018).

    Raises:
        ValueError: the number of rates is none of these.

    """
    if isinstance(peak, (int, float)):
        return [float(peak)] * groups
    if len(peak) == groups:
        return list(peak)
    if len(peak) == 2 and groups > 1:
        first, last = peak
        return [first * (last / first) ** (at / (groups - 1)) for at in range(groups)]
    raise ValueError(
        f"{len(peak)} rates for {groups} layer groups: give one, {groups}, or the first and last"
    )


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
