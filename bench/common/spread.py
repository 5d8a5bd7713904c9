"""Medians over repeats with the least and the most, and percentiles of what was measured."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median


def number(value: float) -> str:
    """Three digits, and whole numbers from 100 up."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


@dataclass(frozen=True, slots=True)
class Spread:
    """A median over the repeats, with the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Summarise one value or more; ValueError where there is none."""
        found = list(values)
        if not found:
            raise ValueError("nothing was measured")
        return cls(median(found), min(found), max(found))

    def shown(self, text: Callable[[float], str] = number) -> str:
        """Give "640 (610 to 655)", or one number where all are the same."""
        if self.least == self.most:
            return text(self.median)
        return f"{text(self.median)} ({text(self.least)} to {text(self.most)})"


def percentile(sorted_values: Sequence[float], percent: float) -> float:
    """The smallest value that is not below `percent` % of them; nan where there are none."""
    if not sorted_values:
        return math.nan
    return sorted_values[max(0, math.ceil(len(sorted_values) * percent / 100) - 1)]
