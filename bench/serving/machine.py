"""What this runs on, for the record."""

import platform
import warnings
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from bench.serving.load import wrk_version
from bench.serving.results import Machine


def describe(*, gpu: bool = False) -> Machine:
    """The machine; `cores` are those that this process may use. Its GPU is named if it is used."""
    return Machine(
        cpu=cpu_name(),
        gpu=gpu_name() if gpu else None,
        cores=len(psutil.Process().cpu_affinity()),
        memory_gb=psutil.virtual_memory().total / 1e9,
        kernel=platform.release(),
        python=platform.python_version(),
        wrk=wrk_version(),
    )


def gpu_name() -> str | None:
    """As NVIDIA's driver calls the first one; None where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pynvml
    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)))
    except pynvml.NVMLError:
        return None


def cpu_name() -> str:
    """As Linux calls the processor; elsewhere its architecture."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()
