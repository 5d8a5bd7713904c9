"""Choice of the number of workers and threads for a machine or a container."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from limelight.runtime import cuda
from service.settings import Settings

# Each worker has its own copy of the models. Beyond this number, replicas behind a load balancer
# gain more than further workers.
_MAX_WORKERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    workers: int
    threads: int
    """Threads of one forward pass in one worker."""


def choose(*, workers: int, threads: int, cores: int, gpu: bool) -> Parallelism:
    """Choose the values that are 0.

    On a CPU, small batches in many processes are faster than large batches in one: use one worker
    per core. On a GPU, one process is fastest, because all images then share its batches.
    """
    if workers == 0:
        workers = 1 if gpu else min(cores, _MAX_WORKERS)
    if threads == 0:
        threads = max(1, cores // workers)
    return Parallelism(workers=workers, threads=threads)


def planned(settings: Settings) -> Parallelism:
    """Choose the workers and threads of the service on this machine."""
    return choose(
        workers=settings.workers,
        threads=settings.threads,
        cores=usable_cores(),
        gpu=settings.device != "cpu" and cuda.driver_problem() is None,
    )


def usable_cores(control_groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of cores that CPU affinity and the container's limit allow; at least 1.

    Limits are rounded up: 1.5 cores count as 2.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = _limit(control_groups)
    return max(1, min(cores or 1, math.ceil(limit) if limit else cores or 1))


def _limit(control_groups: Path) -> float | None:
    """Return the CPU limit in cores, from control groups version 2 or 1; None if there is none."""
    try:
        try:
            quota, period = (control_groups / "cpu.max").read_text().split()
        except FileNotFoundError:
            quota = (control_groups / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (control_groups / "cpu/cpu.cfs_period_us").read_text().strip()
        return int(quota) / int(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError):
        return None
