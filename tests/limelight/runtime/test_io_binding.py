"""I/O binding on a CPU, and page-locked memory with a fake NVIDIA driver."""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from limelight.artifact.store import Artifact
from limelight.runtime import cuda
from limelight.runtime.io_binding import Allocate, IoBinding
from limelight.runtime.onnx_session import open_session
from limelight.runtime.sessions import Sessions
from tests.serving_kit import COLOUR_NETWORK

SHAPES: dict[str, tuple[int | str, ...]] = {"logits": (3,), "cams": (3, 4, 4)}


@pytest.fixture
def allocated() -> list[NDArray[np.generic]]:
    return []


@pytest.fixture
def io_binding(colours: Artifact, allocated: list[NDArray[np.generic]]) -> IoBinding:
    return make(colours, recording(allocated))


def recording(allocated: list[NDArray[np.generic]]) -> Allocate:
    """Allocate memory that is not blank, and record each array in `allocated`."""

    def allocate(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[np.generic]:
        made = np.full(shape, 77, dtype)
        allocated.append(made)
        return made

    return allocate


def make(
    artifact: Artifact,
    allocate: Allocate = np.empty,
    shapes: dict[str, tuple[int | str, ...]] = SHAPES,
    **limits: int,
) -> IoBinding:
    graph = artifact.graph("model.onnx")
    return IoBinding(
        Sessions(lambda: open_session(graph, device="cpu", threads=1)),
        image_shape=(8, 8, 3),
        output_shapes=shapes,
        device="cpu",
        allocate=allocate,
        **limits,
    )


def images(rng: np.random.Generator, batch: int) -> NDArray[np.uint8]:
    return rng.integers(1, 256, (batch, 8, 8, 3), np.uint8)


def logits(io_binding: IoBinding, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
    found = io_binding.run(images_nhwc, ["logits"])
    assert found is not None
    return found[0]


def test_outputs_come_in_the_requested_order(
    io_binding: IoBinding, rng: np.random.Generator
) -> None:
    some = images(rng, 3)
    found = io_binding.run(some, ["logits", "cams"])
    turned = io_binding.run(some, ["cams", "logits"])
    assert found is not None
    assert turned is not None
    np.testing.assert_allclose(found[0], COLOUR_NETWORK.logits(some), atol=1e-5)
    np.testing.assert_allclose(found[1], COLOUR_NETWORK.cams(some), atol=1e-5)
    np.testing.assert_array_equal(turned[0], found[1])
    np.testing.assert_array_equal(turned[1], found[0])


def test_buffers_are_reused_without_changing_earlier_results(
    io_binding: IoBinding, rng: np.random.Generator, allocated: list[NDArray[np.generic]]
) -> None:
    some = images(rng, 4)
    first = logits(io_binding, some)
    before, arrays = first.copy(), len(allocated)
    others = images(rng, 4)
    np.testing.assert_allclose(logits(io_binding, others), COLOUR_NETWORK.logits(others), atol=1e-5)
    np.testing.assert_array_equal(first, before)
    assert len(allocated) == arrays == 2  # one input, one output


def test_padding_after_a_smaller_batch_is_blank(
    io_binding: IoBinding, rng: np.random.Generator, allocated: list[NDArray[np.generic]]
) -> None:
    for batch in (3, 4, 3):
        logits(io_binding, images(rng, batch))
        given = allocated[0]
        assert given.shape[0] == 4
        assert given[:batch].all()
        assert not given[batch:].any()


def test_concurrent_forward_passes_do_not_mix_their_images(
    io_binding: IoBinding, rng: np.random.Generator
) -> None:
    different = [images(rng, 2) for _ in range(200)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda each: logits(io_binding, each), different))
    for each, values in zip(different, found, strict=True):
        np.testing.assert_allclose(values, COLOUR_NETWORK.logits(each), atol=1e-5)


def test_buffers_are_reused_after_a_failed_forward_pass(
    io_binding: IoBinding, rng: np.random.Generator, allocated: list[NDArray[np.generic]]
) -> None:
    logits(io_binding, images(rng, 2))
    with pytest.raises(ValueError, match="broadcast"):
        io_binding.run(np.zeros((2, 9, 8, 3), np.uint8), ["logits"])
    some = images(rng, 2)
    np.testing.assert_allclose(logits(io_binding, some), COLOUR_NETWORK.logits(some), atol=1e-5)
    assert len(allocated) == 2


def test_no_buffers_are_allocated_beyond_the_memory_limit(
    colours: Artifact, rng: np.random.Generator, allocated: list[NDArray[np.generic]]
) -> None:
    one = 8 * 8 * 3 + 4 * 3
    io_binding = make(colours, recording(allocated), max_bytes=3 * one)
    assert io_binding.run(images(rng, 1), ["logits"]) is not None
    assert io_binding.run(images(rng, 2), ["logits"]) is not None
    assert io_binding.run(images(rng, 4), ["logits"]) is None
    assert io_binding.run(images(rng, 1), ["logits"]) is not None  # in the existing buffers
    assert sum(each.nbytes for each in allocated) == 3 * one


def test_existing_buffers_stay_in_use_after_an_allocation_fails(
    colours: Artifact, rng: np.random.Generator
) -> None:
    asked: list[tuple[int, ...]] = []

    def allocate(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[np.generic]:
        asked.append(shape)
        if len(asked) == 3:  # the first array of the second buffers
            raise MemoryError("the driver gives none")
        return np.empty(shape, dtype)

    io_binding = make(colours, allocate)
    some = images(rng, 2)
    logits(io_binding, some)
    for batch in (4, 8):
        assert io_binding.run(images(rng, batch), ["logits"]) is None
    np.testing.assert_allclose(logits(io_binding, some), COLOUR_NETWORK.logits(some), atol=1e-5)
    assert len(asked) == 3  # no allocation is attempted after the failure


@pytest.mark.parametrize("outputs", [["cams"], ["logits", "cams"], ["logits", "nonsense"]])
def test_output_of_unknown_size_is_not_bound(
    colours: Artifact, rng: np.random.Generator, outputs: list[str]
) -> None:
    io_binding = make(colours, shapes={"logits": (3,), "cams": (3, "height", "width")})
    assert io_binding.run(images(rng, 1), outputs) is None


class Driver:
    """Fake NVIDIA driver that allocates "page-locked" memory without a GPU."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.contexts: list[int] = []
        self.memory: list[Any] = []

    def _status(self, name: str) -> int:
        return 201 if name == self.fails else 0

    def cuDeviceGet(self, device: Any, number: int) -> int:  # noqa: N802
        device._obj.value = number
        return self._status("cuDeviceGet")

    def cuDevicePrimaryCtxRetain(self, context: Any, device: ctypes.c_int) -> int:  # noqa: N802
        context._obj.value = 4711 + device.value
        return self._status("cuDevicePrimaryCtxRetain")

    def cuCtxPushCurrent_v2(self, context: ctypes.c_void_p) -> int:  # noqa: N802
        self.contexts.append(context.value or 0)
        return self._status("cuCtxPushCurrent_v2")

    def cuCtxPopCurrent_v2(self, context: Any) -> int:  # noqa: N802
        context._obj.value = self.contexts.pop()
        return 0

    def cuMemHostAlloc(self, address: Any, size: ctypes.c_size_t, flags: int) -> int:  # noqa: N802
        assert self.contexts == [4711]
        assert flags == 1
        self.memory.append(ctypes.create_string_buffer(size.value))
        address._obj.value = ctypes.addressof(self.memory[-1])
        return self._status("cuMemHostAlloc")


def test_page_locked_memory_is_allocated_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    array = cuda.page_locked((2, 3), np.float32)
    array[...] = 1.5
    assert array.shape == (2, 3)
    assert array.dtype == np.float32
    assert driver.memory[0].raw == np.full(6, 1.5, np.float32).tobytes()
    assert not driver.contexts


@pytest.mark.parametrize(
    "call",
    ["cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2", "cuMemHostAlloc"],
)
def test_failed_driver_call_is_a_memory_error(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(call))
    with pytest.raises(MemoryError, match=r"no page-locked memory of 24 bytes \(201\)"):
        cuda.page_locked((2, 3), np.float32)
