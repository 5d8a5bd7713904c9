"""Metrics: bulk observation, counting of requests, dead workers and GPU gauges."""

import math
import os
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from limelight.artifact.store import load_artifact
from service.request_context import Stage
from service.telemetry import all_workers
from service.telemetry.metric_factory import observe_all
from service.telemetry.metrics import (
    Metrics,
    PredictionLabels,
    RequestLabels,
)
from tests.serving_kit import write_artifact

BOUNDS = (0.001, 0.25, 1.0, 8.0)
EDGES = [
    edge
    for bound in BOUNDS
    for edge in (bound, math.nextafter(bound, 0), math.nextafter(bound, math.inf))
]


def values(metrics: Metrics) -> dict[str, float]:
    metrics.flush()
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        sample.name + "".join(f" {value}" for _, value in sorted(sample.labels.items())): (
            sample.value
        )
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def content(histogram: Histogram) -> list[tuple[str, dict[str, str], float]]:
    return [
        (sample.name, sample.labels, sample.value)
        for metric in histogram.collect()
        for sample in metric.samples
        if not sample.name.endswith(("_created", "_sum"))
    ]


@given(
    st.lists(
        st.sampled_from([*EDGES, 0.0, -1.0, 1e300, math.inf]) | st.floats(0, 20, allow_nan=False),
        min_size=1,
        max_size=40,
    )
)
def test_bulk_observation_equals_single_observations(observed: list[float]) -> None:
    one_by_one, at_once = (
        Histogram("a", "A.", registry=CollectorRegistry(), buckets=BOUNDS) for _ in range(2)
    )
    for value in observed:
        one_by_one.observe(value)
    observe_all(at_once, np.array(observed))
    assert content(at_once) == content(one_by_one)
    sums = [histogram._sum.get() for histogram in (at_once, one_by_one)]
    assert sums[0] == pytest.approx(sums[1])


def test_request_is_counted_in_every_metric() -> None:
    metrics = Metrics()
    stages: list[tuple[Stage, float, float]] = [("read", 1.0, 1.25), ("compute", 2.0, 2.5)]
    who = RequestLabels("/explain", "m", "3")
    metrics.observe_request(who, seconds=0.5, stages=stages)
    metrics.observe_request(who, seconds=1.5, stages=stages)
    what = PredictionLabels("m", "cat", ("abstain",), "cam", "3")
    metrics.observe_prediction(what, 0.75)
    metrics.observe_prediction(what, 0.25)
    metrics.observe_prediction(PredictionLabels("m", "dog", version="3"), 1.0)
    refused = RequestLabels("/predict", code=503, error_code="overloaded")
    metrics.observe_request(refused, seconds=0.1, stages=[])
    metrics.observe_batch(("m", "3"), 3, 0.25)
    found = values(metrics)
    assert found["limelight_requests_total 200 m /explain 3"] == 2
    assert found["limelight_requests_total 503 none /predict none"] == 1
    assert found["limelight_rejected_total overloaded"] == 1
    assert found["limelight_explanations_total cam m 3"] == 2
    assert found["limelight_predictions_total cat m 3"] == 2
    assert found["limelight_predictions_total dog m 3"] == 1
    assert found["limelight_flagged_total abstain m 3"] == 2
    assert "limelight_flagged_total out_of_distribution m" not in found
    assert found["limelight_request_duration_seconds_sum /explain"] == 2.0
    assert found["limelight_stage_duration_seconds_sum m read 3"] == 0.5
    assert found["limelight_stage_duration_seconds_sum m compute 3"] == 1.0
    assert found["limelight_stage_duration_seconds_count m compute 3"] == 2
    assert found["limelight_confidence_sum m 3"] == 2.0
    assert found["limelight_confidence_count m 3"] == 3
    assert found["limelight_batch_size_sum m 3"] == 3
    assert found["limelight_batches_total m 3 3"] == 1
    assert found["limelight_batch_seconds_total m 3 3"] == 0.25
    assert found["limelight_model_seconds_total m success 3"] == 2.0
    assert found["limelight_last_answer_timestamp_seconds m 3"] == pytest.approx(
        time.time(), abs=60
    )
    assert values(metrics) == found  # once


def test_disabled_metrics_count_nothing() -> None:
    metrics = Metrics(enabled=False)
    metrics.observe_request(RequestLabels("/predict"), seconds=0.5, stages=[("read", 1.0, 1.25)])
    metrics.observe_prediction(PredictionLabels("m", "cat", version="1"), 0.75)
    metrics.observe_batch(("m", "1"), 3, 0.25)
    assert not any("total" in name or "seconds_" in name for name in values(metrics))


class Interrupted(list[tuple[int, float]]):
    """List of batches to which a batcher's thread appends while it is being read."""

    coming: ClassVar = [(32, 0.1), (7, 0.1), (1, 0.1)]

    def __getitem__(self, index: Any) -> Any:
        taken = super().__getitem__(index)
        if self.coming:
            self.append(self.coming.pop())
        return taken


def test_a_batch_that_ends_during_a_flush_is_counted_once() -> None:
    metrics = Metrics()
    metrics._batches["m", "1"] = Interrupted([(2, 0.1), (3, 0.1)])
    for _ in range(5):
        found = values(metrics)
    assert found["limelight_batch_size_count m 1"] == 5
    assert found["limelight_batch_size_sum m 1"] == 2 + 3 + 1 + 7 + 32


WORKER = """
import sys
from service.telemetry.metrics import Metrics, RequestLabels
metrics = Metrics()
metrics.set_worker(ready=sys.argv[1] == "ready", in_flight=2, deaths=0)
metrics.models.set_queue("m", depth=3, age_s=float(sys.argv[2]))
metrics.observe_request(RequestLabels("/predict", "m", "1"), seconds=0.5, stages=[])
metrics.flush()
print("there", flush=True)
sys.stdin.read()
"""


def test_dead_workers_keep_their_counters_and_lose_their_gauges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))

    def scrape() -> dict[str, float]:
        registry = all_workers.collect(tmp_path)
        return {
            sample.name: sample.value
            for family in registry.collect()
            for sample in family.samples
            if sample.labels.get("le") is None
        }

    processes = []
    for state, age_s in [("ready", "1.5"), ("loading", "4.5")]:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, state, age_s],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        processes.append(process)
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
    gauges = ("workers", "ready", "in_flight", "queue_depth", "queue_age_seconds")
    both = scrape()
    assert [both[f"limelight_{name}"] for name in gauges] == [2, 0, 4, 6, 4.5]
    processes[1].kill()
    processes[1].wait()
    one = scrape()
    assert [one[f"limelight_{name}"] for name in gauges] == [1, 1, 2, 3, 1.5]
    assert one["limelight_requests_total"] == both["limelight_requests_total"] == 2
    assert list(tmp_path.glob(f"gauge_*_{processes[1].pid}.db")) == []
    for process in processes:
        process.communicate()


def test_each_gpu_has_its_gauges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", management(used=[7.0, 3e9], busy=[25, 100]))
    found = values(Metrics())
    assert {name: value for name, value in found.items() if "gpu" in name} == {
        "limelight_gpu_utilization_ratio 0": 0.25,
        "limelight_gpu_utilization_ratio 1": 1.0,
        "limelight_gpu_memory_used_bytes 0": 7.0,
        "limelight_gpu_memory_used_bytes 1": 3e9,
        "limelight_gpu_memory_total_bytes 0": 8e9,
        "limelight_gpu_memory_total_bytes 1": 8e9,
    }


@pytest.mark.parametrize("broken", [True, False])
def test_gpu_gauges_are_absent_without_a_gpu(monkeypatch: pytest.MonkeyPatch, broken: bool) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", management(used=[], busy=[], broken=broken))
    assert not any("gpu" in name for name in values(Metrics()))


def management(*, used: list[float], busy: list[int], broken: bool = False) -> types.ModuleType:
    """Create a fake `pynvml` with one GPU for each number."""

    class NVMLError(Exception):
        pass

    def start() -> None:
        if broken:
            raise NVMLError("driver not loaded")

    module: Any = types.ModuleType("pynvml")
    module.NVMLError, module.nvmlInit = NVMLError, start
    module.nvmlDeviceGetCount = lambda: len(used)
    module.nvmlDeviceGetHandleByIndex = lambda index: index
    module.nvmlDeviceGetMemoryInfo = lambda at: types.SimpleNamespace(used=used[at], total=8e9)
    module.nvmlDeviceGetUtilizationRates = lambda at: types.SimpleNamespace(gpu=busy[at])
    return module  # type: ignore[no-any-return]


def test_version_that_was_removed_leaves_the_exposition_after_a_while(tmp_path: Path) -> None:
    """Its last requests must still be scraped; after that, versions must not pile up."""
    metrics = Metrics()
    for version in ("1", "2"):
        manifest = load_artifact(write_artifact(tmp_path, version=version)).manifest
        metrics.models.set_loaded(
            manifest,
            file="model.onnx",
            provider="CPU",
            precision="float32",
            load_s=0.1,
            warm_up_s=0.1,
            memory_bytes=7,
        )
        labels = RequestLabels("/predict", "colours", version)
        metrics.observe_request(labels, seconds=0.1, stages=[("read", 0.0, 0.1)])
    metrics.flush()

    def versions(later_s: float) -> set[str]:
        now = time.time() + later_s
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time", lambda: now)
            found = list(all_workers.Recent(metrics._registry).collect())
        assert "limelight_requests" in {metric.name for metric in found}
        return {
            sample.labels["version"]
            for metric in found
            for sample in metric.samples
            if "version" in sample.labels
        }

    metrics.models.set_served([("colours", "1"), ("colours", "2")])
    assert versions(10 * all_workers.KEEP_S) == {"1", "2"}
    metrics.models.set_served([("colours", "2")])
    assert versions(all_workers.KEEP_S / 2) == {"1", "2"}
    assert versions(2 * all_workers.KEEP_S) == {"2"}
    metrics.models.set_served([("colours", "2"), ("colours", "1")])  # rolled back
    assert versions(2 * all_workers.KEEP_S) == {"1", "2"}
