"""Prometheus metrics. Label values come from closed sets, so clients cannot add time series.

A request only appends one row. The rows are aggregated every second and before each scrape.
Updating the metrics within each request would take a tenth of the time of a fast model's request.
"""

import logging
import math
import os
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.samples import Sample

from service.request_context import STAGES, Stage
from service.telemetry import all_workers, gpu, shared_values
from service.telemetry.metric_factory import OF_MODEL, Key, MetricFactory, observe_all
from service.telemetry.model_metrics import ModelMetrics
from service.telemetry.shadow_metrics import ShadowMetrics

logger = logging.getLogger("limelight.metrics")

CONTENT_TYPE = CONTENT_TYPE_LATEST
FLUSH_S = 1.0
"""Interval between two aggregations. Its cost hardly depends on the number of observations."""
_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)
_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


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

    Attributes:
        models: gauges of the models.
        shadows: metrics of the shadows.
    """

    def __init__(self, *, workers: int = 1, enabled: bool = True) -> None:
        self._enabled = enabled
        # Arrays of numbers: one object per request would fill the CPU caches.
        self._request_rows: dict[RequestLabels, array[float]] = {}
        self._prediction_rows: dict[PredictionLabels, array[float]] = {}
        self._batches: defaultdict[Key, list[tuple[int, float]]] = defaultdict(list)
        self._shared = True
        make = MetricFactory()
        self._registry = make.registry
        self.models = ModelMetrics(make)
        self.shadows = ShadowMetrics(make, enabled=enabled)
        self._gpus = gpu.Gauges(make)
        self._requests = make.counter(
            "requests", "Requests answered.", "route", "model", "version", "code"
        )
        self._key_requests = make.counter(
            "key_requests", "Requests answered, by the name of their API key.", "key", "code"
        )
        self._keys = make.gauge("keys", "Names in the file of API keys.", "livemin")
        self._keys_file_broken = make.gauge(
            "keys_file_broken", "1 when a worker cannot use the newest file of keys.", "livemax"
        )
        self._rejected = make.counter("rejected", "Requests answered with an error.", "reason")
        self._explanations = make.counter(
            "explanations", "Explanations returned.", *OF_MODEL, "method"
        )
        self._predictions = make.counter("predictions", "Predictions returned.", *OF_MODEL, "label")
        self._flagged = make.counter(
            "flagged", "Predictions flagged as unreliable.", *OF_MODEL, "flag"
        )
        self._duration = make.histogram(
            "request_duration_seconds", "Seconds from head to response.", _SECONDS, "route"
        )
        self._stage = make.histogram(
            "stage_duration_seconds", "Seconds per stage.", _SECONDS, *OF_MODEL, "stage"
        )
        self._batch_size = make.histogram(
            "batch_size", "Images per batch.", [2.0**power for power in range(11)], *OF_MODEL
        )
        self._batches_run = make.counter(
            "batches", "Batches run through a network.", *OF_MODEL, "size"
        )
        self._batch_seconds = make.counter(
            "batch_seconds", "Seconds of the batches.", *OF_MODEL, "size"
        )
        self._model_seconds = make.counter(
            "model_seconds", "Seconds of the requests to a model.", *OF_MODEL, "outcome"
        )
        self._confidence = make.histogram(
            *(
                "confidence",
                "Probability of the winning class.",
                [tenth / 10 for tenth in range(1, 11)],
            ),
            *OF_MODEL,
        )
        self._in_flight = make.gauge("in_flight", "Requests in progress.", "livesum")
        self._ready = make.gauge("ready", "1 when every worker is ready.", "livemin")
        self._workers = make.gauge("workers", "Workers that are alive.", "livesum")
        self._deaths = make.gauge(
            "worker_deaths", "Workers that died since the start, and were replaced.", "livemax"
        )
        make.gauge("workers_wanted", "Configured workers.", "livemax").set(workers)
        self._last = make.gauge(
            *(
                "last_answer_timestamp_seconds",
                "Time of a model's last successful response.",
                "livemax",
                *OF_MODEL,
            )
        )

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

    def observe_batch(self, key: Key, size: int, seconds: float) -> None:
        """Record a batch of a model and version. May be called from any thread."""
        if self._enabled:
            self._batches[key].append((size, seconds))

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

    def flush(self) -> None:
        """Aggregate the observations since the last call, and repair the files of the metrics."""
        self._repair()
        request_rows, self._request_rows = self._request_rows, {}
        by_route: defaultdict[str, list[NDArray[np.float64]]] = defaultdict(list)
        by_model: defaultdict[Key, list[NDArray[np.float64]]] = defaultdict(list)
        for labels, numbers in request_rows.items():
            rows = np.frombuffer(numbers).reshape(-1, len(_COLUMNS))
            self._count_requests(labels, len(rows), float(rows[:, 0].sum()))
            by_route[labels.route].append(rows[:, 0])
            by_model[labels.model, labels.version].append(rows[:, 1:])
        for route, parts in by_route.items():
            observe_all(self._duration.labels(route), np.concatenate(parts))
        for key, parts in by_model.items():
            for stage, durations in zip(STAGES, np.concatenate(parts).T, strict=True):
                if (known := _without_nan(durations)).size:
                    observe_all(self._stage.labels(*key, stage), known)
        self.shadows.flush()
        prediction_rows, self._prediction_rows = self._prediction_rows, {}
        for prediction, confidences in prediction_rows.items():
            self._count_predictions(prediction, np.array(confidences))
        for key, batches in list(self._batches.items()):
            # A thread may append at the same time: remove only the entries that were copied.
            taken = batches[:]
            del batches[: len(taken)]
            if taken:
                sizes = np.array([size for size, _ in taken], np.float64)
                observe_all(self._batch_size.labels(*key), sizes)
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
        observe_all(self._confidence.labels(*key), confidences)
        if prediction.method is not None:
            self._explanations.labels(*key, prediction.method).inc(number)
        for flag in prediction.flags:
            self._flagged.labels(*key, flag).inc(number)


def _without_nan(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[~np.isnan(values)]
