"""Metrics of the models: which versions are served, refused and rolled back, and their queues."""

import time
from collections.abc import Collection

from prometheus_client import Gauge

from limelight.artifact.manifest import Manifest
from service.telemetry.all_workers import REMOVED
from service.telemetry.metric_factory import OF_MODEL, Key, MetricFactory


class ModelMetrics:
    """Gauges of the models of a worker."""

    def __init__(self, make: MetricFactory) -> None:
        self._depth = make.gauge("queue_depth", "Images in the queue.", "livesum", "model")
        self._age = make.gauge(
            "queue_age_seconds", "Age of the oldest image in the queue.", "livemax", "model"
        )
        self._info = make.gauge(
            "model_info",
            "1 for each served model, 0 for one that was served before.",
            "livemax",
            *(*OF_MODEL, "provider", "precision", "sha256"),
        )
        self._refusal = make.gauge(
            "model_refused", "1 for each version that failed to load.", "livemax", *OF_MODEL
        )
        self._rollback = make.gauge(
            "model_rolled_back",
            "1 for each version whose last canary or shadow exceeded a limit.",
            "livemax",
            *OF_MODEL,
        )
        self._load = make.gauge(
            "model_load_seconds", "Seconds to read and verify a model.", "livemax", *OF_MODEL
        )
        self._warm_up = make.gauge(
            "model_warm_up_seconds", "Seconds to warm up a model.", "livemax", *OF_MODEL
        )
        self._memory = make.gauge(
            "model_memory_bytes",
            "Memory that a worker took to load a model; 0 for one that was served before.",
            "livemax",
            *OF_MODEL,
        )
        self._removed = make.gauge(
            REMOVED, "Time since which a version is not served; 0: it is.", "livemax", *OF_MODEL
        )
        self._infos: dict[Key, Gauge] = {}
        self._memory_bytes: dict[Key, int] = {}
        self._refused: set[Key] = set()
        self._rolled_back: set[Key] = set()
        self._removed_keys: set[Key] = set()

    def set_queue(self, model: str, *, depth: int, age_s: float) -> None:
        """Set the state of a model's queue."""
        self._depth.labels(model).set(depth)
        self._age.labels(model).set(age_s)

    def set_loaded(
        self,
        manifest: Manifest,
        *,
        file: str,
        provider: str,
        precision: str,
        load_s: float,
        warm_up_s: float,
        memory_bytes: int,
    ) -> None:
        """Record a model that is ready to serve; `file` is the ONNX file that it runs."""
        sha256 = manifest.files[file].sha256
        key = manifest.name, manifest.version
        self._infos[key] = self._info.labels(*key, provider, precision, sha256)
        self._load.labels(*key).set(load_s)
        self._warm_up.labels(*key).set(warm_up_s)
        self._memory.labels(*key).set(memory_bytes)
        self._memory_bytes[key] = memory_bytes

    def set_served(self, keys: Collection[Key]) -> None:
        """Record which models are served."""
        for key, info in self._infos.items():
            info.set(key in keys)
        removed = self._infos.keys() - set(keys)
        for key in removed ^ self._removed_keys:
            self._removed.labels(*key).set(time.time() if key in removed else 0)
        self._removed_keys = removed
        for key, taken in self._memory_bytes.items():
            self._memory.labels(*key).set(taken if key in keys else 0)

    def set_refused(self, keys: Collection[Key]) -> None:
        """Record which versions on disk cannot be served."""
        self._mark(self._refusal, self._refused, keys)

    def set_rolled_back(self, keys: Collection[Key]) -> None:
        """Record which versions were rolled back automatically, and not tried again since."""
        self._mark(self._rollback, self._rolled_back, keys)

    def _mark(self, gauge: Gauge, before: set[Key], keys: Collection[Key]) -> None:
        """Set a gauge to 1 for `keys`, and to 0 for those `before` and for every loaded version."""
        before.update(keys)
        for key in self._infos.keys() | before:
            gauge.labels(*key).set(key in keys)
