"""Prometheus metrics. Label values come from closed sets, so clients cannot add time series.

A request only appends one row. The rows are aggregated every second and before each scrape.
Updating the metrics within each request would take a tenth of the time of a fast model's request.
"""

import logging
import math
import os
import time
from array import array
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.samples import Sample

from limelight.artifact.manifest import Manifest
from service.request_context import STAGES, Stage
from service.telemetry import all_workers, gpu, shared_values
from service.telemetry.all_workers import REMOVED

logger = logging.getLogger("limelight.metrics")

CONTENT_TYPE = CONTENT_TYPE_LATEST
FLUSH_S = 1.0
"""Interval between two aggregations. Its cost hardly depends on the number of observations."""
_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)
_Key = tuple[str, str]
_OF_MODEL = ("model", "version")
_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
# Before the first metric is made.
shared_values.install()


@dataclass(frozen=True, slots=True)
class RequestLabels:
    """Labels of a completed request: its route, its model and its outcome."""

    route: str
    model: str = "none"
    version: str = "none"
    code: int = 200
    error_code: str | None = None
    """Code of the error that was returned; None: there was no error."""
    key: str = ""
    """Name of the API key, from the file of keys; empty: there was none."""


@dataclass(frozen=True, slots=True)
class PredictionLabels:
    """Labels of the prediction for one image."""

    model: str
    label: str
    """Most probable class."""
    flags: tuple[str, ...] = ()
    """Reasons not to rely on the prediction."""
    method: str | None = None
    """Explanation method; None: no explanation was requested."""
    version: str = "none"


# One row per request: total seconds, then the seconds of each stage. NaN: no such stage.
_COLUMNS = ("seconds", *STAGES)
_COLUMN_INDEX = {stage: index for index, stage in enumerate(_COLUMNS)}
_EMPTY_ROW = [math.nan] * len(_COLUMNS)


class Metrics:
    """Metrics of one worker. With PROMETHEUS_MULTIPROC_DIR set, `render` sums all workers.

    The caller must pass closed sets of labels: `RequestLabels.route` is a route of the application
    or "other", and `model` is a served model or "none".
    """

    def __init__(self, *, workers: int = 1, enabled: bool = True) -> None:
        self._enabled = enabled
        # Arrays of numbers: one object per request would fill the CPU caches.
        self._request_rows: dict[RequestLabels, array[float]] = {}
        self._prediction_rows: dict[PredictionLabels, array[float]] = {}
        self._shadow_counts: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self._batches: defaultdict[_Key, list[tuple[int, float]]] = defaultdict(list)
        self._shared = True
        self._registry = CollectorRegistry()
        self._requests = self._counter(
            "requests", "Requests answered.", "route", "model", "version", "code"
        )
        self._key_requests = self._counter(
            "key_requests", "Requests answered, by the name of their API key.", "key", "code"
        )
        self._keys = self._gauge("keys", "Names in the file of API keys.", "livemin")
        self._keys_file_broken = self._gauge(
            "keys_file_broken", "1 when a worker cannot use the newest file of keys.", "livemax"
        )
        self._rejected = self._counter("rejected", "Requests answered with an error.", "reason")
        self._explanations = self._counter(
            "explanations", "Explanations returned.", *_OF_MODEL, "method"
        )
        self._predictions = self._counter(
            "predictions", "Predictions returned.", *_OF_MODEL, "label"
        )
        self._flagged = self._counter(
            "flagged", "Predictions flagged as unreliable.", *_OF_MODEL, "flag"
        )
        self._duration = self._histogram(
            "request_duration_seconds", "Seconds from head to response.", _SECONDS, "route"
        )
        self._stage = self._histogram(
            "stage_duration_seconds", "Seconds per stage.", _SECONDS, *_OF_MODEL, "stage"
        )
        self._batch_size = self._histogram(
            "batch_size", "Images per batch.", [2.0**power for power in range(11)], *_OF_MODEL
        )
        self._batches_run = self._counter(
            "batches", "Batches run through a network.", *_OF_MODEL, "size"
        )
        self._batch_seconds = self._counter(
            "batch_seconds", "Seconds of the batches.", *_OF_MODEL, "size"
        )
        self._model_seconds = self._counter(
            "model_seconds", "Seconds of the requests to a model.", *_OF_MODEL, "outcome"
        )
        self._confidence = self._histogram(
            *(
                "confidence",
                "Probability of the winning class.",
                [tenth / 10 for tenth in range(1, 11)],
            ),
            *_OF_MODEL,
        )
        self._depth = self._gauge("queue_depth", "Images in the queue.", "livesum", "model")
        self._age = self._gauge(
            "queue_age_seconds", "Age of the oldest image in the queue.", "livemax", "model"
        )
        self._in_flight = self._gauge("in_flight", "Requests in progress.", "livesum")
        self._ready = self._gauge("ready", "1 when every worker is ready.", "livemin")
        self._workers = self._gauge("workers", "Workers that are alive.", "livesum")
        self._deaths = self._gauge(
            "worker_deaths", "Workers that died since the start, and were replaced.", "livemax"
        )
        self._gauge("workers_wanted", "Configured workers.", "livemax").set(workers)
        self._model = self._gauge(
            "model_info",
            "1 for each served model, 0 for one that was served before.",
            "livemax",
            *("model", "version", "provider", "precision", "sha256"),
        )
        self._infos: dict[tuple[str, str], Gauge] = {}
        self._refusal = self._gauge(
            *("model_refused", "1 for each version that failed to load.", "livemax"),
            *("model", "version"),
        )
        self._refused: set[tuple[str, str]] = set()
        self._rollback = self._gauge(
            "model_rolled_back",
            "1 for each version whose last canary or shadow exceeded a limit.",
            "livemax",
            *_OF_MODEL,
        )
        self._rolled_back: set[tuple[str, str]] = set()
        self._load = self._gauge(
            "model_load_seconds", "Seconds to read and verify a model.", "livemax", *_OF_MODEL
        )
        self._warm_up = self._gauge(
            "model_warm_up_seconds", "Seconds to warm up a model.", "livemax", *_OF_MODEL
        )
        self._memory = self._gauge(
            "model_memory_bytes",
            "Memory that a worker took to load a model; 0 for one that was served before.",
            "livemax",
            *_OF_MODEL,
        )
        self._memory_bytes: dict[tuple[str, str], int] = {}
        self._last = self._gauge(
            *(
                "last_answer_timestamp_seconds",
                "Time of a model's last successful response.",
                "livemax",
                *_OF_MODEL,
            )
        )
        self._removed = self._gauge(
            *(REMOVED, "Time since which a version is not served; 0: it is.", "livemax"), *_OF_MODEL
        )
        self._removed_keys: set[_Key] = set()
        self._shadow_images = self._counter(
            *("shadow_images", "Images for a shadow, by what became of them."),
            *("model", "version", "result"),
        )
        self._agreements = self._counter(
            *("shadow_agreements", "Images of a shadow with the same class as the active version."),
            *("model", "version"),
        )
        self._difference = self._histogram(
            "shadow_probability_difference",
            "Mean absolute difference of a shadow's probabilities.",
            (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
            *("model", "version"),
        )
        self._correlation = self._histogram(
            "shadow_map_correlation",
            "Rank correlation of a shadow's maps.",
            (-0.5, 0.0, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0),
            *("model", "version"),
        )
        self._gpus = gpu.Gauges(self._gauge)

    def observe_request(
        self,
        labels: RequestLabels,
        *,
        seconds: float,
        stages: Sequence[tuple[Stage, float, float]],
    ) -> None:
        """Record a completed request."""
        if not self._enabled:
            return
        row = _EMPTY_ROW.copy()
        row[0] = seconds
        for stage, begun, ended in stages:
            column = _COLUMN_INDEX[stage]
            before = row[column]
            # A stage that ran twice counts as the sum. NaN does not equal itself.
            row[column] = ended - begun + (before if before == before else 0.0)
        rows = self._request_rows.get(labels)
        if rows is None:
            rows = self._request_rows[labels] = array("d")
        rows.extend(row)

    def observe_prediction(self, labels: PredictionLabels, confidence: float) -> None:
        """Record a prediction; `confidence` is the probability of the winning class."""
        if not self._enabled:
            return
        confidences = self._prediction_rows.get(labels)
        if confidences is None:
            confidences = self._prediction_rows[labels] = array("d")
        confidences.append(confidence)

    def observe_batch(self, key: _Key, size: int, seconds: float) -> None:
        """Record a batch of a model and version. May be called from any thread."""
        if self._enabled:
            self._batches[key].append((size, seconds))

    def count_shadow(self, key: tuple[str, str], result: str, images: int) -> None:
        """Count images for the shadow `key`, a model and a version: compared, shed or failed."""
        if self._enabled:
            self._shadow_counts[*key, result] += images

    def observe_comparison(
        self,
        key: tuple[str, str],
        *,
        agrees: bool,
        difference: float | None,
        correlation: float | None,
    ) -> None:
        """Record the comparison of a shadow with the active version, for one image."""
        if not self._enabled:
            return
        self._agreements.labels(*key).inc(agrees)
        if difference is not None:
            self._difference.labels(*key).observe(difference)
        if correlation is not None:
            # The last bucket has the correlation 1, whatever rounding adds to it.
            self._correlation.labels(*key).observe(min(1.0, correlation))

    def set_queue(self, model: str, *, depth: int, age_s: float) -> None:
        """Set the state of a model's queue."""
        self._depth.labels(model).set(depth)
        self._age.labels(model).set(age_s)

    def set_keys(self, names: int, broken: bool) -> None:
        """Set the number of names whose API keys are valid, and whether the file is broken."""
        self._keys.set(names)
        self._keys_file_broken.set(broken)

    def set_worker(self, *, ready: bool, in_flight: int, deaths: int) -> None:
        """Set the status of this worker, and how many workers have died."""
        self._workers.set(1)
        self._ready.set(ready)
        self._in_flight.set(in_flight)
        self._deaths.set(deaths)

    def set_model(
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
        self._infos[key] = self._model.labels(*key, provider, precision, sha256)
        self._load.labels(*key).set(load_s)
        self._warm_up.labels(*key).set(warm_up_s)
        self._memory.labels(*key).set(memory_bytes)
        self._memory_bytes[key] = memory_bytes

    def set_served(self, keys: Collection[tuple[str, str]]) -> None:
        """Record which models are served, by name and version."""
        for key, info in self._infos.items():
            info.set(key in keys)
        removed = self._infos.keys() - set(keys)
        for key in removed ^ self._removed_keys:
            self._removed.labels(*key).set(time.time() if key in removed else 0)
        self._removed_keys = removed
        for key, taken in self._memory_bytes.items():
            self._memory.labels(*key).set(taken if key in keys else 0)

    def set_refused(self, refused: Collection[tuple[str, str]]) -> None:
        """Record which versions on disk cannot be served."""
        self._mark(self._refusal, self._refused, refused)

    def set_rolled_back(self, keys: Collection[tuple[str, str]]) -> None:
        """Record which versions were rolled back automatically, and not tried again since."""
        self._mark(self._rollback, self._rolled_back, keys)

    def _mark(
        self, gauge: Gauge, before: set[tuple[str, str]], keys: Collection[tuple[str, str]]
    ) -> None:
        """Set a gauge to 1 for `keys`, and to 0 for those `before` and for every loaded version."""
        before.update(keys)
        for key in self._infos.keys() | before:
            gauge.labels(*key).set(key in keys)

    def flush(self) -> None:
        """Aggregate the observations since the last call, and repair the files of the metrics."""
        self._repair()
        request_rows, self._request_rows = self._request_rows, {}
        by_route: defaultdict[str, list[NDArray[np.float64]]] = defaultdict(list)
        by_model: defaultdict[_Key, list[NDArray[np.float64]]] = defaultdict(list)
        for labels, numbers in request_rows.items():
            rows = np.frombuffer(numbers).reshape(-1, len(_COLUMNS))
            self._count_requests(labels, len(rows), float(rows[:, 0].sum()))
            by_route[labels.route].append(rows[:, 0])
            by_model[labels.model, labels.version].append(rows[:, 1:])
        for route, parts in by_route.items():
            _observe_all(self._duration.labels(route), np.concatenate(parts))
        for key, parts in by_model.items():
            for stage, durations in zip(STAGES, np.concatenate(parts).T, strict=True):
                if (known := _without_nan(durations)).size:
                    _observe_all(self._stage.labels(*key, stage), known)
        shadow_counts, self._shadow_counts = self._shadow_counts, defaultdict(int)
        for shadow, images in shadow_counts.items():
            self._shadow_images.labels(*shadow).inc(images)
        prediction_rows, self._prediction_rows = self._prediction_rows, {}
        for prediction, confidences in prediction_rows.items():
            self._count_predictions(prediction, np.array(confidences))
        for key, batches in list(self._batches.items()):
            # A thread may append at the same time: remove only the entries that were copied.
            taken = batches[:]
            del batches[: len(taken)]
            if taken:
                sizes = np.array([size for size, _ in taken], np.float64)
                _observe_all(self._batch_size.labels(*key), sizes)
            for size, seconds in taken:
                self._batches_run.labels(*key, size).inc()
                self._batch_seconds.labels(*key, size).inc(seconds)

    def render(self) -> bytes:
        """Return the text format, summed over all workers of this service. Call `flush` first."""
        self._gpus.read()
        try:
            return generate_latest(self._all_workers())
        except Exception:  # the library raises errors of many types for a damaged file
            logger.exception(
                "the metrics of all workers cannot be read: those of this one are shown"
            )
            return generate_latest(self._registry)

    def samples(self) -> list[Sample]:
        """Return the samples that `render` writes as text."""
        return [sample for metric in self._all_workers().collect() for sample in metric.samples]

    def _repair(self) -> None:
        problem = shared_values.repair_all()
        if problem is not None and self._shared:
            logger.error(
                "the metrics of this worker cannot be written, so /metrics lacks them or shows old "
                "values; requests are served as before: %s",
                problem,
            )
        if problem is None and not self._shared:
            logger.warning("the metrics of this worker are written again")
        self._shared = problem is None

    def _all_workers(self) -> CollectorRegistry:
        folder = os.environ.get(_DIRECTORY)
        if folder is None or not Path(folder).is_dir():
            return self._registry
        return all_workers.collect(Path(folder))

    def _count_requests(self, request: RequestLabels, number: int, seconds: float) -> None:
        key = model, version = request.model, request.version
        self._requests.labels(request.route, model, version, request.code).inc(number)
        if request.key:
            self._key_requests.labels(request.key, request.code).inc(number)
        if model != "none":
            outcome = "success" if request.code < 400 else "failure"
            self._model_seconds.labels(*key, outcome).inc(seconds)
            if outcome == "success":
                self._last.labels(*key).set_to_current_time()
        if request.error_code is not None:
            self._rejected.labels(request.error_code).inc(number)

    def _count_predictions(
        self, prediction: PredictionLabels, confidences: NDArray[np.float64]
    ) -> None:
        key, number = (prediction.model, prediction.version), len(confidences)
        self._predictions.labels(*key, prediction.label).inc(number)
        _observe_all(self._confidence.labels(*key), confidences)
        if prediction.method is not None:
            self._explanations.labels(*key, prediction.method).inc(number)
        for flag in prediction.flags:
            self._flagged.labels(*key, flag).inc(number)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"limelight_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(
            f"limelight_{name}", text, labels, buckets=buckets, registry=self._registry
        )

    def _gauge(self, name: str, text: str, mode: "gpu.Mode", *labels: str) -> Gauge:
        return Gauge(
            f"limelight_{name}", text, labels, registry=self._registry, multiprocess_mode=mode
        )


def _without_nan(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[~np.isnan(values)]


def _observe_all(histogram: Histogram, values: NDArray[np.float64]) -> None:
    """Do `histogram.observe` for all values at once.

    The library takes one value at a time, so this adds to its private buckets.
    """
    counts = np.bincount(np.searchsorted(histogram._upper_bounds, values))
    for bucket in np.flatnonzero(counts):
        histogram._buckets[bucket].inc(int(counts[bucket]))
    histogram._sum.inc(float(values.sum()))
