"""Decoding of uploads in threads, within a budget of memory.

Small images have threads of their own, so they never wait behind a large one. The memory that a
large image needs is reserved before it is decoded. Nothing else runs in these threads: health,
metrics and the page do not wait for them.
"""

import asyncio
import bisect
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from limelight.artifact.manifest import ImageRule
from limelight.errors import (
    ClientGone,
    DeadlineExceeded,
    ImageTooComplex,
    ImageTooLarge,
    LimelightError,
    Overloaded,
)
from limelight.image_source import EncodedImage
from limelight.imaging.headers.header import MAX_DECODING_S
from limelight.imaging.preprocessing import Upload
from service.request_context import RequestContext

SMALL_BYTES = 24_000_000
"""Most memory that an image of the threads for small images takes."""
SMALL_THREADS = 2
BUDGET_SHARE = 1.25
"""Memory of all large images and pictures at a time, beside the most that one image takes."""
DRAWN_BYTES = 12
"""Bytes per pixel of a picture that is drawn over: itself, the overlay, and the encoded answer."""
_SMALL_S = 0.1
_SMALL_PICTURE_PIXELS = 1 << 18
# Interval at which waiting requests whose client has left are dropped.
_CHECK_S = 0.25
# Weight of the newest value in the running mean.
_NEWEST = 0.2
# Under 64 large uploads at a time, this raised the throughput of small images by a half, and
# lowered their 99th percentile by a third.
_NICENESS = 10

_T = TypeVar("_T")


class MemoryHold:
    """Reserved part of a `DecodingBudget`."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: "DecodingBudget", size: int) -> None:
        self._budget, self.size = budget, size

    def shrink(self, size: int) -> None:
        """Release all but `size` bytes."""
        released, self.size = self.size - size, size
        self._budget.release(released)


class DecodingBudget:
    """Limit on the memory of decoded images in one worker. The smallest request goes first.

    Args:
        largest: most bytes of one reservation. The budget is `BUDGET_SHARE` times as large, so that
            pictures and smaller images go on beside the largest one.

    Attributes:
        reserved_bytes: sum of the present reservations.
    """

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self._max_bytes = int(largest * BUDGET_SHARE)
        self.reserved_bytes = 0
        self._waiting: list[tuple[int, float, asyncio.Future[None]]] = []
        self._held_s = 0.0

    @contextmanager
    def observe(self) -> Iterator[None]:
        """Update the mean time for which a reservation is held, with that of the block."""
        started = time.perf_counter()
        yield
        self._held_s += (time.perf_counter() - started - self._held_s) * _NEWEST

    def check(self, size: int) -> None:
        """Check that `size` bytes can be reserved at all.

        Raises:
            ImageTooLarge: they are more than one image may take.
        """
        if size > self.largest:
            raise ImageTooLarge(
                f"decoding the image would take {size / 1e6:.0f} MB, more than "
                f"{self.largest / 1e6:.0f}: send a smaller one"
            )

    async def reserve(self, size: int, context: RequestContext) -> MemoryHold:
        """Reserve `size` bytes, as soon as they are free.

        Raises:
            ImageTooLarge: see `check`.
            Overloaded: they will not be free before the deadline.
            ClientGone: the client disconnected meanwhile.
        """
        self.check(size)
        if not self._fits(size) or (self._waiting and self._waiting[0][0] <= size):
            ahead = bisect.bisect_right(self._waiting, size, key=lambda waiting: waiting[0])
            wait_s = (ahead + 1) * self._held_s
            if time.perf_counter() + wait_s > context.deadline:
                raise _overloaded(wait_s)
            await self._wait(size, context)
        else:
            self.reserved_bytes += size
        return MemoryHold(self, size)

    def release(self, size: int) -> None:
        """Release bytes, and give them to waiting requests."""
        self.reserved_bytes -= size
        while self._waiting and self._fits(self._waiting[0][0]):
            needed, _, future = self._waiting.pop(0)
            if not future.done():
                self.reserved_bytes += needed
                future.set_result(None)

    def _fits(self, size: int) -> bool:
        return self.reserved_bytes + size <= self._max_bytes

    async def _wait(self, size: int, context: RequestContext) -> None:
        future = asyncio.get_running_loop().create_future()
        entry = (size, time.perf_counter(), future)
        bisect.insort(self._waiting, entry, key=lambda waiting: waiting[:2])
        try:
            while not future.done():
                left_s = context.deadline - time.perf_counter()
                if left_s <= 0:
                    raise _overloaded(self._held_s)
                if context.gone():
                    raise ClientGone("the client has disconnected")
                await asyncio.wait((future,), timeout=min(left_s, _CHECK_S))
        except BaseException:
            if future.done():  # granted at the moment of a cancellation
                self.release(size)
            else:
                self._waiting.remove(entry)
                future.cancel()
            raise


class DecodingPool:
    """Threads that decode the uploads of one worker, and draw pictures over them.

    Args:
        max_bytes: most memory that one large image takes.
        threads: number of threads for large images.
    """

    def __init__(self, *, max_bytes: int, threads: int = 1) -> None:
        self.budget = DecodingBudget(max_bytes)
        self._small = ThreadPoolExecutor(SMALL_THREADS, thread_name_prefix="limelight-small-image")
        self._large = ThreadPoolExecutor(
            threads, thread_name_prefix="limelight-large-image", initializer=_yield_processor
        )

    async def read(
        self,
        source: EncodedImage,
        rule: ImageRule,
        context: RequestContext,
        *,
        with_picture: bool = False,
    ) -> tuple[Upload, MemoryHold | None]:
        """Decode an upload to the network's input, and to a picture of it if that is wanted.

        The memory of the picture stays reserved: the caller releases it.

        Raises:
            LimelightError: the image is rejected; see `read_upload`.
            Overloaded: there is not enough memory before the deadline.
            DeadlineExceeded, ClientGone: the request is late, or its client has left.
        """
        if not with_picture and source.is_quick(rule):
            return source.read(rule), None

        def read_small() -> Upload | None:
            # Here, because the header of a crafted file takes some milliseconds.
            if source.header().decoding_s > _SMALL_S:
                return None
            if source.decoded_bytes(rule, with_picture=with_picture) > SMALL_BYTES:
                return None
            return source.read(rule, with_picture=with_picture)

        upload = await self._run(self._small, read_small, context)
        if upload is not None:
            return upload, await self._hold_picture(upload, context)
        needed = source.decoded_bytes(rule, with_picture=with_picture)
        hold = await self.budget.reserve(needed, context)
        kept = 0
        try:
            with self.budget.observe():
                upload = await self._run(
                    self._large, lambda: source.read(rule, with_picture=with_picture), context
                )
            kept = _picture_bytes(upload)
        finally:
            hold.shrink(min(kept, hold.size))
        return upload, hold

    async def check_together(
        self, sources: Sequence[EncodedImage], rule: ImageRule, context: RequestContext
    ) -> None:
        """Check the images of one request before the first is decoded.

        Raises:
            LimelightError: an image is rejected; see `inspect`.
            ImageTooComplex: decoding all of them would take longer than one image may.
            DeadlineExceeded, ClientGone: the request is late, or its client has left.
        """

        def check() -> None:
            seconds = sum(
                source.header().decoding_s for source in sources if not source.is_quick(rule)
            )
            if seconds > MAX_DECODING_S:
                raise ImageTooComplex(
                    "decoding all images of the request would take too long: send fewer at a time, "
                    "or smaller ones"
                )

        if not all(source.is_quick(rule) for source in sources):
            await self._run(self._small, check, context)

    async def draw(self, draw: Callable[[], bytes], pixels: int, context: RequestContext) -> bytes:
        """Draw a picture of `pixels` pixels.

        Raises:
            DeadlineExceeded, ClientGone: the request is late, or its client has left.
        """
        pool = self._small if pixels <= _SMALL_PICTURE_PIXELS else self._large
        return await self._run(pool, draw, context)

    async def prepare(self, work: Callable[[], Upload], context: RequestContext) -> Upload:
        """Prepare a part of a picture.

        Raises:
            DeadlineExceeded, ClientGone: the request is late, or its client has left.
        """
        return await self._run(self._small, work, context)

    def close(self) -> None:
        """End the threads; an image that is being decoded is finished."""
        self._small.shutdown(wait=False, cancel_futures=True)
        self._large.shutdown(wait=False, cancel_futures=True)

    async def _hold_picture(self, upload: Upload, context: RequestContext) -> MemoryHold | None:
        size = _picture_bytes(upload)
        return await self.budget.reserve(size, context) if size else None

    @staticmethod
    async def _run(pool: ThreadPoolExecutor, work: Callable[[], _T], context: RequestContext) -> _T:
        """Run `work` in a thread, unless the request has ended when its turn comes."""

        def run() -> _T:
            if (problem := ended(context)) is not None:
                raise problem
            return work()

        return await asyncio.get_running_loop().run_in_executor(pool, run)


def _yield_processor() -> None:
    """Lower the priority of this thread, so that small requests go on beside a large image.

    Linux counts priority by thread, and other systems by process.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def ended(context: RequestContext) -> LimelightError | None:
    """Return the reason why nobody waits for the answer any more; None if somebody does."""
    if context.gone():
        return ClientGone("the client has disconnected")
    if time.perf_counter() > context.deadline:
        return DeadlineExceeded("the answer would come too late: try again", retry_after_s=1)
    return None


def _picture_bytes(upload: Upload) -> int:
    """Return the memory of the picture while it is kept and drawn over."""
    picture = upload.picture
    return 0 if picture is None else picture.width * picture.height * DRAWN_BYTES


def _overloaded(wait_s: float) -> Overloaded:
    return Overloaded(
        "too many large images are being decoded: try again, or send a smaller one",
        retry_after_s=wait_s,
    )
