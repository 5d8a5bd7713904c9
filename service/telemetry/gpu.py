"""Gauges of NVIDIA GPUs: utilisation and memory, read from the driver's management library."""

import warnings
from typing import Any

from service.telemetry.metric_factory import MetricFactory, Mode


class Gauges:
    """Utilisation and memory of each GPU. Without a GPU there are no gauges."""

    def __init__(self, make: MetricFactory) -> None:
        self._devices = _devices()
        if not self._devices:
            return
        latest: Mode = "livemostrecent"
        self._utilization = make.gauge(
            "gpu_utilization_ratio", "Share of time in use.", latest, "gpu"
        )
        self._used = make.gauge("gpu_memory_used_bytes", "GPU memory in use.", latest, "gpu")
        self._total = make.gauge("gpu_memory_total_bytes", "Total GPU memory.", latest, "gpu")

    def read(self) -> None:
        """Read the driver's values into the gauges."""
        for number, (management, device) in enumerate(self._devices):
            name = str(number)
            memory = management.nvmlDeviceGetMemoryInfo(device)
            percent = management.nvmlDeviceGetUtilizationRates(device).gpu
            self._utilization.labels(name).set(percent / 100)
            self._used.labels(name).set(memory.used)
            self._total.labels(name).set(memory.total)


def _devices() -> list[tuple[Any, Any]]:
    """Return NVIDIA's management library and a handle for each GPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pynvml
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        return [(pynvml, pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)]
    except pynvml.NVMLError:  # no driver, or the driver lacks this library
        return []
