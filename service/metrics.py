"""What Prometheus reads. Labels come from closed sets, so no client can make it grow."""

import os
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, multiprocess
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from service.engine import Engine

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """One worker's metrics. With PROMETHEUS_MULTIPROC_DIR, which BentoML sets, `render` sums all.

    `route` must be one of the application's own, `model` one that is served, or else "other" and
    "none": whoever observes sees to that.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "limelight_requests",
            "Requests answered.",
            ["route", "model", "code"],
            registry=registry,
        )
        self._duration = Histogram(
            "limelight_request_duration_seconds",
            "From the request's head to the answer's last byte.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch_size = Histogram(
            "limelight_batch_size",
            "Images in one pass through a network.",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
            registry=registry,
        )
        self._model = Gauge(
            "limelight_model_info",
            "1 for each model that is served.",
            ["model", "version", "provider", "sha256"],
            multiprocess_mode="max",
            registry=registry,
        )

    def observe_request(self, *, route: str, model: str, code: int, seconds: float) -> None:
        self._requests.labels(route, model, code).inc()
        self._duration.labels(route).observe(seconds)

    def batch_observer(self, model: str) -> Callable[[int], None]:
        """What a batcher tells the size of each batch to."""
        return self._batch_size.labels(model).observe

    def served(self, engine: Engine) -> None:
        """A model was loaded, verified and warmed up."""
        manifest = engine.manifest
        sha256 = manifest.files[manifest.onnx_file].sha256
        self._model.labels(manifest.name, manifest.version, engine.provider, sha256).set(1)

    def render(self) -> bytes:
        """The text format, over all workers of this service."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        every_worker = CollectorRegistry()
        multiprocess.MultiProcessCollector(every_worker)  # type: ignore[no-untyped-call]
        return generate_latest(every_worker)
