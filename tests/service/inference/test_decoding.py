"""Budget of decoded memory, and the threads that decode."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator

import numpy as np
import pytest
from PIL import Image

from limelight.errors import (
    ClientGone,
    DeadlineExceeded,
    ImageTooComplex,
    ImageTooLarge,
    Overloaded,
    UndecodableImage,
)
from limelight.image_source import EncodedImage
from limelight.imaging.headers.header import Header
from limelight.imaging.image_rule import ImageRule
from limelight.imaging.preprocessing import Upload
from service.inference.decoding import DRAWN_BYTES, DecodingPool
from service.inference.decoding_budget import DecodingBudget
from service.request_context import RequestContext
from tests.hostile_images import png, scans
from tests.service.http.listening import until
from tests.serving_kit import encode

RULE = ImageRule(height=8, width=8, mode="RGB", fit="crop", invert="never", background=0)
LARGE = png((4000, 2500), colour=2)
SMALL = encode(Image.new("RGB", (300, 200)), "JPEG")


def context(seconds: float = 10, **options: object) -> RequestContext:
    return RequestContext(deadline=time.perf_counter() + seconds, **options)  # type: ignore[arg-type]


def source(body: bytes, most_pixels: int = 10**6) -> EncodedImage:
    return EncodedImage(body, 40_000_000, most_pixels)


async def test_memory_is_granted_as_long_as_it_lasts() -> None:
    budget = DecodingBudget(80)  # and a quarter more for smaller images
    first = await budget.reserve(60, context())
    second = await budget.reserve(40, context())
    assert budget.reserved_bytes == 100
    first.shrink(10)
    third = await budget.reserve(50, context())
    assert budget.reserved_bytes == 100
    for hold in (first, second, third):
        hold.shrink(0)
    assert budget.reserved_bytes == 0
    with pytest.raises(ImageTooLarge, match="decoding the image would take"):
        await budget.reserve(81, context())


async def test_waiting_requests_are_granted_from_the_smallest() -> None:
    budget = DecodingBudget(80)
    first = await budget.reserve(80, context())
    order: list[int] = []

    async def take(size: int) -> None:
        hold = await budget.reserve(size, context())
        order.append(size)
        await asyncio.sleep(0)
        hold.shrink(0)

    tasks = []
    for size in (70, 60, 50):
        tasks.append(asyncio.create_task(take(size)))
        await asyncio.sleep(0)
    assert order == []
    first.shrink(0)
    await asyncio.gather(*tasks)
    assert order == [50, 60, 70]
    assert budget.reserved_bytes == 0


async def test_request_that_would_wait_too_long_is_rejected() -> None:
    budget = DecodingBudget(80)
    hold = await budget.reserve(80, context())
    started = time.perf_counter()
    with pytest.raises(Overloaded):
        await budget.reserve(50, context(0.1))
    assert 0.05 < time.perf_counter() - started < 5
    with budget.observe():
        await asyncio.sleep(0.05)
    for _ in range(20):  # until the mean is near that
        with budget.observe():
            await asyncio.sleep(0.02)
    with pytest.raises(Overloaded) as rejected:  # at once, from the mean
        await budget.reserve(50, context(0.01))
    assert 0 < rejected.value.retry_after_s < 1
    hold.shrink(0)
    assert budget.reserved_bytes == 0


async def test_waiting_request_whose_client_left_is_dropped() -> None:
    budget = DecodingBudget(80)
    hold = await budget.reserve(80, context())
    gone = threading.Event()
    waiting = asyncio.create_task(budget.reserve(50, context(gone=gone.is_set)))
    await asyncio.sleep(0)
    gone.set()
    with pytest.raises(ClientGone):
        await asyncio.wait_for(waiting, 5)
    cancelled = asyncio.create_task(budget.reserve(50, context()))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    hold.shrink(0)
    assert budget.reserved_bytes == 0
    assert (await budget.reserve(80, context())).size == 80


async def test_request_cancelled_at_the_moment_of_its_grant_returns_the_memory() -> None:
    budget = DecodingBudget(80)
    hold = await budget.reserve(80, context())
    waiting = asyncio.create_task(budget.reserve(50, context()))
    await asyncio.sleep(0)
    hold.shrink(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert budget.reserved_bytes == 0


@pytest.fixture
async def pool() -> AsyncIterator[DecodingPool]:
    pool = DecodingPool(max_bytes=60_000_000)
    yield pool
    pool.close()


async def test_memory_is_released_after_success_and_failure(pool: DecodingPool) -> None:
    upload, hold = await pool.read(source(LARGE), RULE, context())
    assert (upload.width, upload.height) == (4000, 2500)
    assert hold is not None
    assert hold.size == pool.budget.reserved_bytes == 0
    damaged = LARGE[:-5]
    for body in (damaged, damaged[: len(damaged) // 2]):
        with pytest.raises(UndecodableImage):
            await pool.read(source(body), RULE, context())
        assert pool.budget.reserved_bytes == 0


async def test_memory_of_a_picture_stays_reserved(pool: DecodingPool) -> None:
    for body in (LARGE, SMALL):
        upload, hold = await pool.read(source(body), RULE, context(), with_picture=True)
        assert upload.picture is not None
        assert hold is not None
        pixels = upload.picture.width * upload.picture.height
        assert hold.size == pool.budget.reserved_bytes == pixels * DRAWN_BYTES
        hold.shrink(0)
        assert pool.budget.reserved_bytes == 0


async def test_image_that_never_fits_is_rejected(pool: DecodingPool) -> None:
    with pytest.raises(ImageTooLarge):
        await pool.read(source(png((4000, 4000))), RULE, context())


async def test_small_images_and_other_work_do_not_wait_behind_a_large_one(
    pool: DecodingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, release = threading.Event(), threading.Event()

    class Slow(EncodedImage):
        def read(self, rule: ImageRule, *, with_picture: bool = False) -> Upload:
            started.set()
            assert release.wait(30)
            return super().read(rule, with_picture=with_picture)

    slow = Slow(LARGE, 40_000_000)
    large = [asyncio.create_task(pool.read(slow, RULE, context(30))) for _ in range(5)]
    try:
        await until(started.is_set)
        for _ in range(3):
            upload, _ = await asyncio.wait_for(pool.read(source(SMALL), RULE, context()), 5)
            assert upload.width == 300
            assert await asyncio.wait_for(asyncio.to_thread(lambda: 1), 5) == 1
        assert not any(task.done() for task in large)
    finally:
        release.set()
    await asyncio.gather(*large)
    assert pool.budget.reserved_bytes == 0


async def test_memory_of_a_cancelled_request_is_released_when_its_decoder_ends(
    pool: DecodingPool,
) -> None:
    started, release = threading.Event(), threading.Event()

    class Slow(EncodedImage):
        def read(self, rule: ImageRule, *, with_picture: bool = False) -> Upload:
            started.set()
            assert release.wait(30)
            return super().read(rule, with_picture=with_picture)

    running = asyncio.create_task(pool.read(Slow(LARGE, 40_000_000), RULE, context()))
    await until(started.is_set)
    queued = asyncio.create_task(pool.read(source(LARGE), RULE, context()))
    for task in (running, queued):
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    try:
        needed = source(LARGE).decoded_bytes(RULE)
        assert pool.budget.reserved_bytes == needed
    finally:
        release.set()
    await until(lambda: pool.budget.reserved_bytes == 0)


async def test_late_or_abandoned_request_is_not_decoded(pool: DecodingPool) -> None:
    with pytest.raises(DeadlineExceeded):
        await pool.read(source(LARGE), RULE, context(-1))
    with pytest.raises(ClientGone):
        await pool.read(source(SMALL), RULE, context(gone=lambda: True))
    assert pool.budget.reserved_bytes == 0


async def test_images_of_one_request_count_together(pool: DecodingPool) -> None:
    costly = source(png((4000, 2500), colour=2))
    assert 0.1 < costly.header().decoding_s < 0.2
    await pool.check_together([costly] * 5, RULE, context())
    with pytest.raises(ImageTooComplex, match="all images of the request"):
        await pool.check_together([costly] * 10, RULE, context())
    with pytest.raises(ImageTooComplex):
        await pool.check_together(
            [source(SMALL), source(scans((1280, 1280), 9000))], RULE, context()
        )
    tiny = source(encode(Image.fromarray(np.zeros((8, 8, 3), np.uint8))))
    await pool.check_together([tiny] * 1000, RULE, context())


@pytest.mark.parametrize("body", [LARGE, LARGE[:-5], SMALL], ids=["late", "damaged", "small"])
async def test_failed_upload_is_freed_without_a_garbage_collection(
    pool: DecodingPool, body: bytes
) -> None:
    class Watched(EncodedImage):
        """Can be referred to weakly, because it has no slots of its own."""

    async def fail() -> weakref.ref[EncodedImage]:
        failing = Watched(body, 40_000_000)
        late = threading.Event()

        def header() -> Header:
            late.set()  # after the first check, so that the second one fails
            return EncodedImage.header(failing)

        if body is LARGE:
            monkey.setattr(failing, "header", header)
        gone = (lambda: late.is_set()) if body is not SMALL else (lambda: True)
        with pytest.raises((ClientGone, UndecodableImage)):
            await pool.read(failing, RULE, context(gone=gone))
        monkey.undo()
        return weakref.ref(failing)

    gc.disable()
    try:
        with pytest.MonkeyPatch.context() as monkey:
            found = await fail()
        await asyncio.sleep(0)
        await until(lambda: found() is None, 2)
    finally:
        gc.enable()
