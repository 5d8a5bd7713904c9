"""Factory of the service's metrics: their prefix, their registry, and many observations at once."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.telemetry import shared_values

Mode = Literal["livesum", "livemax", "livemin", "livemostrecent"]
"""How the values of a gauge in several workers become one."""
Key = tuple[str, str]
"""Name and version of a model."""
OF_MODEL = ("model", "version")
"""Labels of a `Key`."""

# Before the first metric is made.
shared_values.install()


class MetricFactory:
    """Factory of metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """Make a counter."""
        return Counter(f"limelight_{name}", text, labels, registry=self.registry)

    def histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        """Make a histogram with these upper bounds."""
        return Histogram(f"limelight_{name}", text, labels, buckets=buckets, registry=self.registry)

    def gauge(self, name: str, text: str, mode: Mode, *labels: str) -> Gauge:
        """Make a gauge."""
        return Gauge(
            f"limelight_{name}", text, labels, registry=self.registry, multiprocess_mode=mode
        )


def observe_all(histogram: Histogram, values: NDArray[np.float64]) -> None:
    """Do `histogram.observe` for all values at once.

    The library takes one value at a time, so this adds to its private buckets.
    """
    counts = np.bincount(np.searchsorted(histogram._upper_bounds, values))
    for bucket in np.flatnonzero(counts):
        histogram._buckets[bucket].inc(int(counts[bucket]))
    histogram._sum.inc(float(values.sum()))
