"""Metrics of shadows: how the answers of a challenger compare with those of the active version."""

from collections import defaultdict

from service.telemetry.metric_factory import OF_MODEL, Key, MetricFactory


class ShadowMetrics:
    """Metrics of the shadows of a worker, by the challenger's name and version."""

    def __init__(self, make: MetricFactory, *, enabled: bool) -> None:
        self._enabled = enabled
        self._images = make.counter(
            "shadow_images", "Images for a shadow, by what became of them.", *OF_MODEL, "result"
        )
        self._agreements = make.counter(
            "shadow_agreements",
            "Images of a shadow with the same class as the active version.",
            *OF_MODEL,
        )
        self._difference = make.histogram(
            "shadow_probability_difference",
            "Mean absolute difference of a shadow's probabilities.",
            (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
            *OF_MODEL,
        )
        self._correlation = make.histogram(
            "shadow_map_correlation",
            "Rank correlation of a shadow's maps.",
            (-0.5, 0.0, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0),
            *OF_MODEL,
        )
        self._counts: defaultdict[tuple[Key, str], int] = defaultdict(int)

    def count(self, key: Key, result: str, images: int) -> None:
        """Count images for a shadow by their result: compared, shed or failed."""
        if self._enabled:
            self._counts[key, result] += images

    def observe(
        self, key: Key, *, agrees: bool, difference: float | None, correlation: float | None
    ) -> None:
        """Record the comparison for one image."""
        if not self._enabled:
            return
        self._agreements.labels(*key).inc(agrees)
        if difference is not None:
            self._difference.labels(*key).observe(difference)
        if correlation is not None:
            # The last bucket has the correlation 1, whatever rounding adds to it.
            self._correlation.labels(*key).observe(min(1.0, correlation))

    def flush(self) -> None:
        """Add the counts since the last call."""
        counts, self._counts = self._counts, defaultdict(int)
        for (key, result), images in counts.items():
            self._images.labels(*key, result).inc(images)
