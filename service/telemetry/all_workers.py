"""Metrics of all workers, read from the files that they share."""

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, multiprocess
from prometheus_client.exposition import generate_latest


def collect(folder: Path) -> CollectorRegistry:
    """Return the metrics whose files are in `folder`, summed over the workers that are alive."""
    _remove_dead_workers(folder)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    return registry


def render(folder: Path) -> bytes:
    """Return the text format of `collect`."""
    return generate_latest(collect(folder))


def _remove_dead_workers(folder: Path) -> None:
    """Remove the gauges of killed workers; BentoML does not."""
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
