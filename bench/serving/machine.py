"""What this runs on, for the record."""

import platform
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from bench.serving.load import wrk_version
from bench.serving.results import Machine


def describe() -> Machine:
    """The machine; `cores` are those that this process may use."""
    return Machine(
        cpu=cpu_name(),
        cores=len(psutil.Process().cpu_affinity()),
        memory_gb=psutil.virtual_memory().total / 1e9,
        kernel=platform.release(),
        python=platform.python_version(),
        wrk=wrk_version(),
    )


def cpu_name() -> str:
    """As Linux calls the processor; elsewhere its architecture."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()
