"""Access to the NVIDIA driver: GPU detection and page-locked memory."""

import ctypes
import functools

import numpy as np
from numpy.typing import DTypeLike, NDArray

_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: page-locked for every CUDA context


@functools.cache
def driver_problem() -> str | None:
    """Return the reason why the driver offers no GPU to this process, or None."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1)"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return "the NVIDIA driver cannot be initialised"
    return None if count.value else "the NVIDIA driver sees no GPU"


def page_locked(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[np.generic]:
    """Allocate an array in page-locked main memory, which is never freed.

    Raises:
        MemoryError: the driver cannot allocate it; the message has the driver's status.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    driver = ctypes.CDLL("libcuda.so.1")
    device, context, address = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
    # ONNX Runtime uses the same primary context. It may not be current in this thread yet.
    status = driver.cuDeviceGet(ctypes.byref(device), 0)
    status = status or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    status = status or driver.cuCtxPushCurrent_v2(context)
    if status == 0:
        status = driver.cuMemHostAlloc(
            ctypes.byref(address), ctypes.c_size_t(max(1, size)), _PORTABLE
        )
        driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    if status != 0 or address.value is None:
        raise MemoryError(f"the driver gives no page-locked memory of {size} bytes ({status})")
    memory = (ctypes.c_uint8 * size).from_address(address.value)
    return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
