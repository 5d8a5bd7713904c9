"""NVIDIA GPUs, by the driver alone: whether there are any, how busy, and memory they can reach."""

import ctypes
import functools
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray
from prometheus_client import Gauge

Mode = Literal["livesum", "livemax", "livemin", "livemostrecent"]
_FOR_EVERY_CONTEXT = 1  # CU_MEMHOSTALLOC_PORTABLE


@functools.cache
def driver_obstacle() -> str | None:
    """Why the driver offers no GPU to this process, or None."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1)"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return "the NVIDIA driver cannot be initialised"
    return None if count.value else "the NVIDIA driver sees no GPU"


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


def page_locked(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[np.generic]:
    """An array of main memory that a GPU can reach by itself; it stays until the process ends.

    Raises:
        MemoryError: the driver gives none; the message has its status.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    driver = ctypes.CDLL("libcuda.so.1")
    device, context, address = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
    # The context that the runtime uses too; a thread may not have entered it yet.
    status = driver.cuDeviceGet(ctypes.byref(device), 0)
    status = status or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    status = status or driver.cuCtxPushCurrent_v2(context)
    if status == 0:
        status = driver.cuMemHostAlloc(
            ctypes.byref(address), ctypes.c_size_t(max(1, size)), _FOR_EVERY_CONTEXT
        )
        driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    if status != 0 or address.value is None:
        raise MemoryError(f"the driver gives no page-locked memory of {size} bytes ({status})")
    memory = (ctypes.c_uint8 * size).from_address(address.value)
    return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
