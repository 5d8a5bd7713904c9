"""What our own /metrics tell about one load: the difference between before and after."""

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Key = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name and its labels, sorted."""


@dataclass(frozen=True, slots=True)
class Mean:
    """Of a histogram: what was observed, in sum, and how often."""

    total: float
    count: float

    @property
    def mean(self) -> float:
        """0 where nothing was observed."""
        return self.total / self.count if self.count else 0.0


@dataclass(frozen=True, slots=True)
class Samples:
    """One scrape."""

    values: Mapping[Key, float]

    @classmethod
    def parse(cls, text: str) -> "Samples":
        """The text format, every sample of it."""
        return cls(
            {
                (sample.name, tuple(sorted(sample.labels.items()))): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
        )

    def since(self, before: "Samples") -> "Samples":
        """By how much each sample has grown; one that is new has grown from 0."""
        return Samples(
            {key: value - before.values.get(key, 0.0) for key, value in self.values.items()}
        )

    def histogram(self, name: str, **labels: str) -> Mean | None:
        """Over all series of `name` that have these labels; None where there is no such series."""
        total, count, found = 0.0, 0.0, False
        for (sample, pairs), value in self.values.items():
            if not labels.items() <= dict(pairs).items():
                continue
            if sample == f"{name}_sum":
                total, found = total + value, True
            elif sample == f"{name}_count":
                count, found = count + value, True
        return Mean(total, count) if found else None
