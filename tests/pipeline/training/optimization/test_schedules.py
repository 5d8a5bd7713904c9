"""Schedules, against torch's own."""

import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LRScheduler, OneCycleLR

from pipeline.training.optimization.schedules import (
    Constant,
    OneCycle,
    Rate,
    Schedule,
    WarmRestarts,
    spread,
)


def make_optimizer(rate: float) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate, momentum=0.9)


def taken(optimizer: torch.optim.SGD, scheduler: LRScheduler, steps: int) -> list[Rate]:
    """The rate, as a share of 0.4, and the momentum of each step that torch takes."""
    rates = []
    for step in range(steps):
        group = optimizer.param_groups[0]
        rates.append(Rate(group["lr"] / 0.4, group["momentum"]))
        optimizer.step()
        if step < steps - 1:
            scheduler.step()
    return rates


def same(ours: list[Rate], theirs: list[Rate]) -> None:
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.share == pytest.approx(reference.share, rel=1e-9, abs=1e-12)
        assert mine.momentum == pytest.approx(reference.momentum, rel=1e-9)


@pytest.mark.parametrize("steps", [20, 175, 1000])
@pytest.mark.parametrize(
    ("pct_start", "div", "div_final"), [(0.25, 25, 1e5), (0.3, 10, 1e4), (0.6, 4, 400)]
)
def test_one_cycle_equals_torch(steps: int, pct_start: float, div: float, div_final: float) -> None:
    schedule = OneCycle(
        peak=0.4, pct_start=pct_start, div=div, div_final=div_final, momentum=(0.95, 0.85, 0.95)
    )
    optimizer = make_optimizer(0.4)
    scheduler = OneCycleLR(
        optimizer,
        max_lr=0.4,
        total_steps=steps,
        pct_start=pct_start,
        div_factor=div,
        final_div_factor=div_final / div,  # torch divides the first rate
        base_momentum=0.85,
        max_momentum=0.95,
    )
    same([schedule.at(step, steps, 7) for step in range(steps)], taken(optimizer, scheduler, steps))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 7])
def test_one_cycle_of_few_steps_stays_in_range(steps: int) -> None:
    schedule = OneCycle(peak=1.0)
    shares = [schedule.at(step, steps, 1).share for step in range(steps)]
    assert all(1e-5 * 0.999 <= share <= 1 for share in shares)
    assert shares[0] == pytest.approx(1 / 25)


@pytest.mark.parametrize(("tail", "cycle"), [(1 / 3, 200), (0.3333, 200), (0.9, 30), (0.001, 300)])
def test_swa_phase_with_a_constant_rate_follows_the_cycle(tail: float, cycle: int) -> None:
    alone = OneCycle(peak=0.4, momentum=(0.95, 0.8, 0.9))
    tailed = OneCycle(peak=0.4, momentum=(0.95, 0.8, 0.9), swa_fraction=tail, swa_div=5)
    rates = [tailed.at(step, 300, 10) for step in range(300)]
    assert rates[:cycle] == [alone.at(step, cycle, 10) for step in range(cycle)]
    assert rates[cycle:] == [Rate(0.2, 0.8)] * (300 - cycle)
    assert tailed.averaged_from(300) == cycle
    assert alone.averaged_from(300) == 0


def test_momentum_can_end_at_another_value() -> None:
    schedule = OneCycle(peak=1.0, momentum=(0.9, 0.8, 0.7))
    momenta = [schedule.at(step, 100, 10).momentum for step in range(100)]
    assert momenta[0] == pytest.approx(0.9)
    assert momenta[24] == pytest.approx(0.8)
    assert momenta[-1] == pytest.approx(0.7)


@pytest.mark.parametrize(("length", "factor"), [(1, 1), (4, 1), (1, 2), (2, 3)])
def test_warm_restarts_equal_torch(length: int, factor: int) -> None:
    schedule = WarmRestarts(peak=0.4, cycle_len=length, cycle_mult=factor)
    optimizer = make_optimizer(0.4)
    scheduler = CosineAnnealingWarmRestarts(optimizer, T_0=length * 11, T_mult=factor)
    same([schedule.at(step, 300, 11) for step in range(300)], taken(optimizer, scheduler, 300))


def test_every_cycle_begins_at_the_peak() -> None:
    schedule = WarmRestarts(peak=0.4, cycle_len=1, cycle_mult=2)
    starts = [step for step in range(150) if schedule.at(step, 150, 10).share == 1]
    assert starts == [0, 10, 30, 70]


def test_constant_rate_is_constant() -> None:
    rates = {Constant(peak=0.06, momentum=0.0).at(step, 50, 5) for step in range(50)}
    assert rates == {Rate(1.0, 0.0)}


def test_recipe_selects_a_schedule_by_its_kind() -> None:
    read = TypeAdapter[Schedule](Schedule).validate_python
    assert isinstance(read({"kind": "one-cycle", "peak": 0.1}), OneCycle)
    assert isinstance(read({"kind": "sgdr", "peak": [0.1, 0.2]}), WarmRestarts)
    assert isinstance(read({"kind": "constant", "peak": 1}), Constant)
    with pytest.raises(ValidationError, match="one-cycle"):
        read({"kind": "linear", "peak": 0.1})
    with pytest.raises(ValidationError, match="pct_start"):
        read({"kind": "sgdr", "peak": 0.1, "pct_start": 0.5})


def test_single_rate_is_for_every_group() -> None:
    assert spread(0.1, 3) == [0.1, 0.1, 0.1]
    assert spread((0.1,), 1) == [0.1]


def test_rates_of_all_groups_are_used_unchanged() -> None:
    assert spread((0.3, 0.1, 0.2), 3) == [0.3, 0.1, 0.2]
    assert spread((0.3, 0.1), 2) == [0.3, 0.1]


def test_rates_between_first_and_last_are_spaced_geometrically() -> None:
    rates = spread((1e-4, 1e-1), 4)
    assert rates == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])
    assert math.isclose(rates[0], 1e-4)


@pytest.mark.parametrize(("peak", "groups"), [((0.1, 0.2, 0.3), 2), ((0.1, 0.2), 1), ((0.1,), 3)])
def test_wrong_number_of_rates_is_rejected(peak: tuple[float, ...], groups: int) -> None:
    with pytest.raises(ValueError, match=rf"{len(peak)} rates for {groups} layer groups"):
        spread(peak, groups)


@pytest.mark.parametrize("peak", [0, -0.1, [0, 0.1], [0.1, -1]])
def test_rates_are_positive(peak: object) -> None:
    with pytest.raises(ValidationError):
        OneCycle.model_validate({"peak": peak})
