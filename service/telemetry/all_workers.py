"""Metrics of all workers, read from the files that they share.

Versions come and go, and the files keep the numbers of all of them. So a version that has not been
served for a while is left out: the number of time series depends on the versions that are served.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, multiprocess
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

REMOVED = "model_removed_timestamp_seconds"
"""Gauge that says since when a version has not been served; 0: it is served."""
# Several scrapes, so that none of the last requests of a version is lost.
KEEP_S = 900.0


def collect(folder: Path) -> CollectorRegistry:
    """Return the metrics whose files are in `folder`, summed over the workers that are alive."""
    _remove_dead_workers(folder)
    registry = CollectorRegistry()
    registry.register(Recent(multiprocess.MultiProcessCollector(None, str(folder))))  # type: ignore[no-untyped-call]
    return registry


def render(folder: Path) -> bytes:
    """Return the text format of `collect`."""
    return generate_latest(collect(folder))


class Recent(Collector):
    """Collector without the versions that were removed more than `KEEP_S` ago."""

    def __init__(self, every: Collector) -> None:
        self._every = every

    def collect(self) -> Iterator[Metric]:
        metrics, oldest = list(self._every.collect()), time.time() - KEEP_S
        gone = {
            (sample.labels["model"], sample.labels["version"])
            for metric in metrics
            if metric.name == f"limelight_{REMOVED}"
            for sample in metric.samples
            if 0 < sample.value < oldest
        }
        for metric in metrics:
            metric.samples = [
                sample
                for sample in metric.samples
                if (sample.labels.get("model"), sample.labels.get("version")) not in gone
            ]
            if metric.samples:
                yield metric


def _remove_dead_workers(folder: Path) -> None:
    """Remove the gauges of killed workers; BentoML does not."""
    dead = {
        pid
        for path in folder.glob("gauge_live*_*.db")
        if not _alive(pid := int(path.stem.rpartition("_")[2]))
    }
    for pid in dead:
        with suppress(FileNotFoundError):  # another process does the same
            multiprocess.mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
