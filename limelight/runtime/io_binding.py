"""Inference with preallocated buffers and fixed batch sizes (ONNX Runtime I/O binding).

Batches are padded with blank images to the sizes of the sessions. The buffers are bound to a
session once instead of being allocated for every forward pass. Page-locked memory lets the GPU copy
without the CPU.
"""

import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike, NDArray

from limelight.runtime.sessions import Sessions, padded_batch_size

Allocate = Callable[[tuple[int, ...], DTypeLike], NDArray[np.generic]]
_MAX_BYTES = 256_000_000


class IoBinding:
    """Bound buffers of one graph, allocated on first use. Any thread may call `run`.

    Forward passes of the same kind can run concurrently: each uses buffers of its own.

    Args:
        sessions: sessions that take `images`, uint8 (N, *image_shape).
        image_shape: (H, W, C).
        output_shapes: shape of each output without its first dimension; a string stands for a
            size that is known only after a forward pass.
        device: ONNX Runtime's name of the device that holds the sessions' inputs: ``cuda`` or
            ``cpu``.
        allocate: function that allocates an array in main memory.
        max_bytes: upper limit of the main memory of all buffers.
    """

    def __init__(
        self,
        sessions: Sessions,
        *,
        image_shape: tuple[int, ...],
        output_shapes: Mapping[str, tuple[int | str, ...]],
        device: str,
        allocate: Allocate,
        max_bytes: int = _MAX_BYTES,
    ) -> None:
        self._sessions = sessions
        self._image_shape = image_shape
        sizes = {
            name: [size for size in shape if isinstance(size, int)]
            for name, shape in output_shapes.items()
        }
        self._known = {
            name: found for name, found in sizes.items() if len(found) == len(output_shapes[name])
        }
        self._device = device
        self._allocate = allocate
        self._bytes_left = max_bytes
        self._lock = threading.Lock()
        self._free: dict[tuple[int, tuple[str, ...]], list[_BoundBuffers]] = {}

    def run(
        self, images_nhwc: NDArray[np.uint8], outputs: Sequence[str]
    ) -> list[NDArray[np.float32]] | None:
        """Run a forward pass: uint8 (N, H, W, C) -> `outputs` in their order, N first.

        Return None if the size of an output is not known in advance, or if further buffers would
        exceed the memory limit.

        Raises:
            Exception: any exception of ONNX Runtime.
        """
        size, names = padded_batch_size(len(images_nhwc)), tuple(outputs)
        free = self._free.setdefault((size, names), [])
        try:
            buffers = free.pop()
        except IndexError:
            allocated = self._allocate_buffers(size, names)
            if allocated is None:
                return None
            buffers = allocated
        try:
            return buffers.run(images_nhwc)
        finally:
            free.append(buffers)

    def _allocate_buffers(self, size: int, names: tuple[str, ...]) -> "_BoundBuffers | None":
        if not self._known.keys() >= set(names):
            return None
        shapes = {name: (size, *self._known[name]) for name in names}
        needed = size * int(np.prod(self._image_shape))
        needed += 4 * sum(int(np.prod(shape)) for shape in shapes.values())
        with self._lock:
            if needed > self._bytes_left:
                return None
            self._bytes_left -= needed
        try:
            return _BoundBuffers(
                self._sessions.of_size(size),
                (size, *self._image_shape),
                shapes,
                device=self._device,
                allocate=self._allocate,
            )
        except MemoryError:
            # Less memory is available than the limit. Existing buffers stay in use.
            self._bytes_left = 0
            return None


class _BoundBuffers:
    """Buffers for one batch size and one set of outputs, used by one caller at a time."""

    def __init__(
        self,
        session: ort.InferenceSession,
        shape: tuple[int, ...],
        output_shapes: Mapping[str, tuple[int, ...]],
        *,
        device: str,
        allocate: Allocate,
    ) -> None:
        self._session = session
        self._host_input = allocate(shape, np.uint8)
        self._host_input[...] = 0
        self._filled = 0
        self._results: list[NDArray[np.generic]] = []
        # An input in other memory would be copied only once, when it is bound. So the bound value
        # is in the device's memory, and `run` updates it.
        self._device_input = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.uint8, device, 0)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input("images", self._device_input)
        for name, output_shape in output_shapes.items():
            result = allocate(output_shape, np.float32)
            self._binding.bind_output(name, "cpu", 0, np.float32, output_shape, result.ctypes.data)
            self._results.append(result)

    def run(self, images_nhwc: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Run uint8 (N, H, W, C), N at most the buffers' batch size -> each output, N first."""
        batch = len(images_nhwc)
        self._host_input[:batch] = images_nhwc
        self._host_input[batch : self._filled] = 0
        self._filled = batch
        self._device_input.update_inplace(self._host_input)
        self._session.run_with_iobinding(self._binding)
        # Copied, because the next forward pass overwrites the buffers.
        return [result[:batch].astype(np.float32) for result in self._results]
