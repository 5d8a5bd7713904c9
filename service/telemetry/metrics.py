"""What Prometheus reads. Labels come from closed sets, so no client can make it grow.

A request costs one append; what was appended is counted every second and before each scrape.
Counting at once would cost a fast model's request a tenth of its time.
"""

import math
import os
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, multiprocess
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.samples import Sample

from limelight.artifact.manifest import Manifest
from service.request_context import STAGES, Stage
from service.telemetry import gpu

CONTENT_TYPE = CONTENT_TYPE_LATEST
FLUSH_S = 1.0
"""How often what was observed is counted; each time costs the same, however much that is."""
_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)
_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


@dataclass(frozen=True, slots=True)
class Answered:
    """What is known of a request by who asked what of whom, and how it ended."""

    route: str
    model: str = "none"
    version: str = "none"
    code: int = 200
    refusal: str | None = None
    """The problem's code, where the answer is one."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """What was said of an image, and by which model."""

    model: str
    label: str
    """The class that won."""
    flags: tuple[str, ...] = ()
    """Why not to rely on it."""
    method: str | None = None
    """How the explanation was made, where there is one."""


# A row of what is observed of a request: seconds in all, and of each stage, NaN where it was none.
_COLUMNS = ("seconds", *STAGES)
_PLACES = {stage: place for place, stage in enumerate(_COLUMNS)}
_NOTHING = [math.nan] * len(_COLUMNS)


class Metrics:
    """One worker's metrics. With PROMETHEUS_MULTIPROC_DIR, which BentoML sets, `render` sums all.

    `Answered.route` must be one of the application's own, `model` one that is served, or else
    "other" and "none": whoever observes sees to that.
    """

    def __init__(self, *, workers: int = 1, enabled: bool = True) -> None:
        self._enabled = enabled
        # Rows of numbers, and no objects: those of thousands of requests would fill the caches.
        self._answered: dict[Answered, array[float]] = {}
        self._predicted: dict[Predicted, array[float]] = {}
        self._batches: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        self._registry = CollectorRegistry()
        self._requests = self._counter(
            "requests", "Requests answered.", "route", "model", "version", "code"
        )
        self._refused = self._counter("refused", "Requests answered with a problem.", "reason")
        self._explanations = self._counter("explanations", "Maps made.", "model", "method")
        self._predictions = self._counter("predictions", "Predictions made.", "model", "label")
        self._flagged = self._counter(
            "flagged", "Predictions flagged as not to be relied on.", "model", "flag"
        )
        self._duration = self._histogram(
            "request_duration_seconds", "From a request's head to its answer.", _SECONDS, "route"
        )
        self._stage = self._histogram(
            "stage_duration_seconds", "Parts of a request.", _SECONDS, "model", "stage"
        )
        self._batch_size = self._histogram(
            "batch_size", "Images in one pass.", [2.0**power for power in range(11)], "model"
        )
        self._batches_run = self._counter(
            "batches", "Batches run through a network.", "model", "size"
        )
        self._pass_seconds = self._counter("pass_seconds", "What they took.", "model", "size")
        self._model_seconds = self._counter(
            "model_seconds", "Requests of a model, from head to answer.", "model", "outcome"
        )
        self._confidence = self._histogram(
            *("confidence", "The winner's probability.", [tenth / 10 for tenth in range(1, 11)]),
            "model",
        )
        self._depth = self._gauge("queue_depth", "Images that wait.", "livesum", "model")
        self._age = self._gauge(
            "queue_age_seconds", "How long the oldest of them has waited.", "livemax", "model"
        )
        self._in_flight = self._gauge("in_flight", "Requests being answered.", "livesum")
        self._ready = self._gauge("ready", "1 when every worker is ready.", "livemin")
        self._workers = self._gauge("workers", "Workers that are alive.", "livesum")
        self._gauge("workers_wanted", "Workers that there should be.", "livemax").set(workers)
        self._model = self._gauge(
            "model_info",
            "1 for each model that is served.",
            "livemax",
            *("model", "version", "provider", "sha256"),
        )
        self._load = self._gauge(
            "model_load_seconds", "Reading and verifying a model.", "livemax", "model"
        )
        self._warm_up = self._gauge(
            "model_warm_up_seconds", "A model's first batches.", "livemax", "model"
        )
        self._last = self._gauge(
            *("last_answer_timestamp_seconds", "When a model last answered.", "livemax", "model")
        )
        self._gpus = gpu.Gauges(self._gauge)

    def answered(
        self,
        who: Answered,
        *,
        seconds: float,
        stages: Sequence[tuple[Stage, float, float]],
    ) -> None:
        """A request is over."""
        if not self._enabled:
            return
        row = _NOTHING.copy()
        row[0] = seconds
        for stage, begun, ended in stages:
            place = _PLACES[stage]
            before = row[place]
            # One that was passed through twice took as long as both; NaN is not itself.
            row[place] = ended - begun + (before if before == before else 0.0)
        rows = self._answered.get(who)
        if rows is None:
            rows = self._answered[who] = array("d")
        rows.extend(row)

    def predicted(self, who: Predicted, confidence: float) -> None:
        """An image was classified; `confidence` is the winner's probability."""
        if not self._enabled:
            return
        row = self._predicted.get(who)
        if row is None:
            row = self._predicted[who] = array("d")
        row.append(confidence)

    def batch_ran(self, model: str, size: int, seconds: float) -> None:
        """May be called from any thread."""
        if self._enabled:
            self._batches[model].append((size, seconds))

    def queue(self, model: str, *, depth: int, age_s: float) -> None:
        self._depth.labels(model).set(depth)
        self._age.labels(model).set(age_s)

    def worker(self, *, ready: bool, in_flight: int) -> None:
        """How this worker does at the moment."""
        self._workers.set(1)
        self._ready.set(ready)
        self._in_flight.set(in_flight)

    def served(
        self, manifest: Manifest, *, file: str, provider: str, load_s: float, warm_up_s: float
    ) -> None:
        """A model was loaded, verified and warmed up; `file` of it is what runs."""
        sha256 = manifest.files[file].sha256
        self._model.labels(manifest.name, manifest.version, provider, sha256).set(1)
        self._load.labels(manifest.name).set(load_s)
        self._warm_up.labels(manifest.name).set(warm_up_s)

    def flush(self) -> None:
        """Count what was observed since the last time."""
        answered, self._answered = self._answered, {}
        by_route: defaultdict[str, list[NDArray[np.float64]]] = defaultdict(list)
        by_model: defaultdict[str, list[NDArray[np.float64]]] = defaultdict(list)
        for who, numbers in answered.items():
            rows = np.frombuffer(numbers).reshape(-1, len(_COLUMNS))
            self._count(who, len(rows), float(rows[:, 0].sum()))
            by_route[who.route].append(rows[:, 0])
            by_model[who.model].append(rows[:, 1:])
        for route, parts in by_route.items():
            _observe_all(self._duration.labels(route), np.concatenate(parts))
        for model, parts in by_model.items():
            for stage, durations in zip(STAGES, np.concatenate(parts).T, strict=True):
                if (known := _numbers(durations)).size:
                    _observe_all(self._stage.labels(model, stage), known)
        predicted, self._predicted = self._predicted, {}
        for what, confidences in predicted.items():
            self._count_predictions(what, np.array(confidences))
        for model, batches in list(self._batches.items()):
            # A thread may append while this runs: what is taken here is what is removed here.
            taken = batches[:]
            del batches[: len(taken)]
            if taken:
                sizes = np.array([size for size, _ in taken], np.float64)
                _observe_all(self._batch_size.labels(model), sizes)
            for size, seconds in taken:
                self._batches_run.labels(model, size).inc()
                self._pass_seconds.labels(model, size).inc(seconds)

    def render(self) -> bytes:
        """The text format, over all workers of this service; `flush` comes before it."""
        self._gpus.read()
        return generate_latest(self._every_worker())

    def samples(self) -> list[Sample]:
        """The same as numbers."""
        return [sample for metric in self._every_worker().collect() for sample in metric.samples]

    def _every_worker(self) -> CollectorRegistry:
        folder = os.environ.get(_DIRECTORY)
        if folder is None:
            return self._registry
        _forget_the_dead(Path(folder))
        every_worker = CollectorRegistry()
        multiprocess.MultiProcessCollector(every_worker)  # type: ignore[no-untyped-call]
        return every_worker

    def _count(self, who: Answered, number: int, seconds: float) -> None:
        self._requests.labels(who.route, who.model, who.version, who.code).inc(number)
        if who.model != "none":
            outcome = "success" if who.code < 400 else "failure"
            self._model_seconds.labels(who.model, outcome).inc(seconds)
            if outcome == "success":
                self._last.labels(who.model).set_to_current_time()
        if who.refusal is not None:
            self._refused.labels(who.refusal).inc(number)

    def _count_predictions(self, what: Predicted, confidences: NDArray[np.float64]) -> None:
        self._predictions.labels(what.model, what.label).inc(len(confidences))
        _observe_all(self._confidence.labels(what.model), confidences)
        if what.method is not None:
            self._explanations.labels(what.model, what.method).inc(len(confidences))
        for flag in what.flags:
            self._flagged.labels(what.model, flag).inc(len(confidences))

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


def _numbers(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[~np.isnan(values)]


def _observe_all(histogram: Histogram, values: NDArray[np.float64]) -> None:
    """`histogram.observe` of each value, for the price of a few.

    The library can only take one at a time, so this goes to the buckets behind it.
    """
    counts = np.bincount(np.searchsorted(histogram._upper_bounds, values))
    for bucket in np.flatnonzero(counts):
        histogram._buckets[bucket].inc(int(counts[bucket]))
    histogram._sum.inc(float(values.sum()))


def _forget_the_dead(folder: Path) -> None:
    """Drop the gauges of workers that were killed: nobody else does."""
    dead = {
        pid
        for path in folder.glob("gauge_live*_*.db")
        if not _alive(pid := int(path.stem.rpartition("_")[2]))
    }
    for pid in dead:
        multiprocess.mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
