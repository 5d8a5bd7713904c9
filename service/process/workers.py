"""How many workers and threads a machine, or the share of it that a container gets, is good for."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

# More workers than this gain little before a load balancer and more replicas do, and each holds
# its own copy of the models.
_MOST_WORKERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    workers: int
    threads: int
    """Of one pass, in one worker."""


def choose(*, workers: int, threads: int, cores: int, gpu: bool) -> Parallelism:
    """Fill in what was left at 0.

    On a CPU small passes in many processes beat large ones in one: a worker a core. A GPU is
    fed best by one process, whose images then share its batches.
    """
    if workers == 0:
        workers = 1 if gpu else min(cores, _MOST_WORKERS)
    if threads == 0:
        threads = max(1, cores // workers)
    return Parallelism(workers=workers, threads=threads)


def usable_cores(control_groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use, by its affinity and its container's CPU limit; at least 1.

    A limit of one and a half cores counts as two: the second is used half of the time.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = _limit(control_groups)
    return max(1, min(cores or 1, math.ceil(limit) if limit else cores or 1))


def _limit(control_groups: Path) -> float | None:
    """Cores' worth of time, by control groups of version 2 or 1; None where there is no limit."""
    try:
        try:
            quota, period = (control_groups / "cpu.max").read_text().split()
        except FileNotFoundError:
            quota = (control_groups / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (control_groups / "cpu/cpu.cfs_period_us").read_text().strip()
        return int(quota) / int(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError):
        return None
