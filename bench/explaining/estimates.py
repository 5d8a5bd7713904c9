"""Figures from a sample, each with the interval that holds the true one with 95 % confidence."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from pydantic import BaseModel, ConfigDict
from scipy.stats import binomtest

_DEVIATIONS = 1.96


class Estimate(BaseModel):
    """A figure between its limits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float


def share(hits: Sequence[bool]) -> Estimate:
    """How many of a sample hit, and Wilson's interval (1927).

    Raises:
        ValueError: the sample is empty.
    """
    interval = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    return Estimate(value=sum(hits) / len(hits), low=float(interval.low), high=float(interval.high))


def mean(values: Sequence[float]) -> Estimate:
    """The mean of two values or more, and 1.96 standard errors to both sides.

    Raises:
        ValueError: there are fewer.
    """
    middle = fmean(values)
    reach = _DEVIATIONS * stdev(values) / math.sqrt(len(values))
    return Estimate(value=middle, low=middle - reach, high=middle + reach)
