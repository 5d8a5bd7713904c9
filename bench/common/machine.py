"""A description of the machine, for the record."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "bentoml", "onnxruntime-gpu", "onnxruntime", "pillow", "uvicorn", "uvloop", "torch",
    "torchcam", "grad-cam",
)  # fmt: skip


def describe(*, gpu: bool = False) -> dict[str, Any]:
    """Processor, cores that may be used, versions; and the GPU, where one is used."""
    versions = {"python": platform.python_version(), "linux": platform.release()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    card = None
    if gpu:
        import torch

        card = torch.cuda.get_device_name()
    return {
        "processor": cpu_name(),
        "gpu": card,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        "versions": versions,
    }


def cpu_name() -> str:
    """The processor's name, as Linux has it; elsewhere its architecture."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()
