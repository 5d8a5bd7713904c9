"""Gauges of NVIDIA GPUs: how busy they are and how full, by the driver's management library."""

import warnings
from collections.abc import Callable
from typing import Any, Literal

from prometheus_client import Gauge

Mode = Literal["livesum", "livemax", "livemin", "livemostrecent"]


class Gauges:
    """Utilisation and memory of each GPU; nothing where there is none.

    Args:
        gauge: makes a gauge from name, description, multi-process mode and labels.
    """

    def __init__(self, gauge: Callable[..., Gauge]) -> None:
        self._devices = _devices()
        if not self._devices:
            return
        latest: Mode = "livemostrecent"
        self._utilization = gauge("gpu_utilization_ratio", "Share of time busy.", latest, "gpu")
        self._used = gauge("gpu_memory_used_bytes", "GPU memory in use.", latest, "gpu")
        self._total = gauge("gpu_memory_total_bytes", "GPU memory.", latest, "gpu")

    def read(self) -> None:
        """Ask the driver."""
        for number, (management, device) in enumerate(self._devices):
            name = str(number)
            memory = management.nvmlDeviceGetMemoryInfo(device)
            busy = management.nvmlDeviceGetUtilizationRates(device).gpu
            self._utilization.labels(name).set(busy / 100)
            self._used.labels(name).set(memory.used)
            self._total.labels(name).set(memory.total)


def _devices() -> list[tuple[Any, Any]]:
    """NVIDIA's management library and its handle of each GPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pynvml
    try:
        pynvml.nvmlInit()
        number = pynvml.nvmlDeviceGetCount()
        return [(pynvml, pynvml.nvmlDeviceGetHandleByIndex(at)) for at in range(number)]
    except pynvml.NVMLError:  # no driver, or one without this library
        return []
