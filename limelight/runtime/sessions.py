"""Sessions of one graph: one for all batches on a CPU, and one for each batch size on a GPU."""

import threading
from collections.abc import Callable, Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from limelight.runtime.onnx_session import Provider, provider_of


class Sessions:
    """Sessions of one graph. Any thread may call `run`.

    On a GPU, ONNX Runtime keeps the convolution algorithms of a session's last batch size only.
    When the size changes, it selects them again. That takes 20 to 35 ms on an H200, where a forward
    pass takes 0.5 ms (ONNX Runtime 1.31, issue microsoft/onnxruntime#23006). So batches are padded
    to a power of two, and each of these sizes has a session of its own, opened on first use.

    Args:
        open_session: function that opens a session of the graph.
        fixed_sizes: one session for each batch size. The default is to do so on a GPU only.

    Attributes:
        first: session that was opened first, for its inputs and outputs.
        fixed_sizes: see above.
    """

    def __init__(
        self,
        open_session: Callable[[], ort.InferenceSession],
        *,
        fixed_sizes: bool | None = None,
    ) -> None:
        self.first = open_session()
        self.fixed_sizes = self.provider != "CPU" if fixed_sizes is None else fixed_sizes
        # On a CPU nothing else is opened, and the bytes of the graph need not be kept.
        self._open_session = open_session if self.fixed_sizes else None
        self._by_size: dict[int, ort.InferenceSession] = {}
        self._lock = threading.Lock()

    @property
    def provider(self) -> Provider:
        """Execution provider of the sessions."""
        return provider_of(self.first)

    def of_size(self, size: int) -> ort.InferenceSession:
        """Return the session for batches of `size` images.

        Raises:
            EngineError: it cannot be opened.
        """
        if self._open_session is None:
            return self.first
        session = self._by_size.get(size)
        if session is None:
            with self._lock:
                session = self._by_size.get(size)
                if session is None:
                    session = self._open_session() if self._by_size else self.first
                    self._by_size[size] = session
        return session

    def run(
        self, images_nhwc: NDArray[np.uint8], outputs: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """Run a forward pass: uint8 (N, H, W, C) -> `outputs` in their order, N first.

        Raises:
            Exception: any exception of ONNX Runtime.
        """
        batch = len(images_nhwc)
        size = padded_batch_size(batch) if self.fixed_sizes else batch
        images = np.ascontiguousarray(images_nhwc)
        if size != batch:
            images = np.zeros((size, *images_nhwc.shape[1:]), np.uint8)
            images[:batch] = images_nhwc
        results: list[NDArray[np.float32]]
        results = self.of_size(size).run(list(outputs), {"images": images})
        return results if size == batch else [result[:batch] for result in results]


def padded_batch_size(images: int) -> int:
    """Return the power of two that a batch of `images` is padded to, at least 1."""
    return 1 << max(0, images - 1).bit_length()
