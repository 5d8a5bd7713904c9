"""Passes from and to memory that stays where it is, in batches of few sizes: what a GPU wants.

It chooses its algorithms anew for each size of batch, so batches are filled up with blank images to
a power of two. What a pass reads and writes is bound to the session once, instead of being found
room for each time, and is page-locked here, so that the GPU copies it without help.
"""

import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike, NDArray

Allocate = Callable[[tuple[int, ...], DTypeLike], NDArray[np.generic]]
_MOST_BYTES = 256_000_000


class IoBinding:
    """The lanes of one session, made when they are first needed. Any thread may call `run`.

    As many passes of one kind run at once as there are callers, each in a lane of its own.

    Args:
        session: takes `images`, uint8 (N, *image_shape).
        image_shape: (H, W, C).
        output_shapes: of each output that may be asked for, without its first dimension; a word
            stands for a size that only a pass shows.
        device: where the session's inputs lie, as ONNX Runtime calls it: ``cuda`` or ``cpu``.
        allocate: makes an array in main memory.
        most_bytes: of such memory, over all lanes; no lane is made beyond that.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        *,
        image_shape: tuple[int, ...],
        output_shapes: Mapping[str, tuple[int | str, ...]],
        device: str,
        allocate: Allocate,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        self._session = session
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
        self._bytes_left = most_bytes
        self._counting = threading.Lock()
        self._free: dict[tuple[int, tuple[str, ...]], list[_BoundBuffers]] = {}

    def run(
        self, images_nhwc: NDArray[np.uint8], outputs: Sequence[str]
    ) -> list[NDArray[np.float32]] | None:
        """One pass: uint8 (N, H, W, C) -> `outputs` in their order, N first.

        None where they have sizes that are not known before, or another lane would need more
        memory than there is.

        Raises:
            Exception: what the runtime raised.
        """
        size, names = size_of_pass(len(images_nhwc)), tuple(outputs)
        free = self._free.setdefault((size, names), [])
        try:
            buffers = free.pop()
        except IndexError:
            made = self._make(size, names)
            if made is None:
                return None
            buffers = made
        try:
            return buffers.run(images_nhwc)
        finally:
            free.append(buffers)

    def _make(self, size: int, names: tuple[str, ...]) -> "_BoundBuffers | None":
        if not self._known.keys() >= set(names):
            return None
        shapes = {name: (size, *self._known[name]) for name in names}
        needed = size * int(np.prod(self._image_shape))
        needed += 4 * sum(int(np.prod(shape)) for shape in shapes.values())
        with self._counting:
            if needed > self._bytes_left:
                return None
            self._bytes_left -= needed
        try:
            return _BoundBuffers(
                self._session,
                (size, *self._image_shape),
                shapes,
                device=self._device,
                allocate=self._allocate,
            )
        except MemoryError:
            # There is less than was meant for them: the lanes that were made go on.
            self._bytes_left = 0
            return None


class _BoundBuffers:
    """Room for one pass at a time, of one size and with certain outputs."""

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
        self._given = allocate(shape, np.uint8)
        self._given[...] = 0
        self._filled = 0
        self._results: list[NDArray[np.generic]] = []
        # What lies elsewhere is copied when it is bound, and not when a pass is run: bound is what
        # lies where the session reads it.
        self._there = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.uint8, device, 0)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input("images", self._there)
        for name, output_shape in output_shapes.items():
            result = allocate(output_shape, np.float32)
            self._binding.bind_output(name, "cpu", 0, np.float32, output_shape, result.ctypes.data)
            self._results.append(result)

    def run(self, images_nhwc: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """uint8 (N, H, W, C), not more than there is room for -> each output, N first."""
        batch = len(images_nhwc)
        self._given[:batch] = images_nhwc
        self._given[batch : self._filled] = 0
        self._filled = batch
        self._there.update_inplace(self._given)
        self._session.run_with_iobinding(self._binding)
        # Copied: the next pass writes to the same place.
        return [result[:batch].astype(np.float32) for result in self._results]


def size_of_pass(images: int) -> int:
    """The power of two that `images` are filled up to, at least one."""
    return 1 << max(0, images - 1).bit_length()
