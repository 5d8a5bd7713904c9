"""Decoding of uploads in threads, within a budget of memory.

Small images have threads of their own, so they never wait behind a large one. The memory that a
large image needs is reserved before it is decoded. Nothing else runs in these threads: health,
metrics and the page do not wait for them.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from limelight.errors import (
    ClientGone,
    DeadlineExceeded,
    ImageTooComplex,
    LimelightError,
)
from limelight.image_source import EncodedImage
from limelight.imaging.headers.header import MAX_DECODING_S
from limelight.imaging.image_rule import ImageRule
from limelight.imaging.preprocessing import Upload
from service.inference.decoding_budget import DecodingBudget, MemoryHold
from service.request_context import RequestContext
from service.system.priority import yield_processor

SMALL_BYTES = 24_000_000
"""Most memory that an image of the threads for small images takes."""
SMALL_THREADS = 2
DRAWN_BYTES = 12
"""Bytes per pixel of a picture that is drawn over: itself, the overlay, and the encoded answer."""
_SMALL_S = 0.1
_SMALL_PICTURE_PIXELS = 1 << 18

_T = TypeVar("_T")


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
            threads, thread_name_prefix="limelight-large-image", initializer=yield_processor
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

        # Headers are read in a thread, because that of a crafted file takes some milliseconds.
        def read_small() -> Upload | tuple[int, bool]:
            """Read the image, or return the memory to reserve first, and if the image is small."""
            needed = source.decoded_bytes(rule, with_picture=with_picture)
            small = source.header().decoding_s <= _SMALL_S and needed <= SMALL_BYTES
            return (needed, small) if with_picture or not small else source.read(rule)

        found = await self._run(self._small, read_small, context)
        if isinstance(found, Upload):
            return found, None
        needed, small = found
        hold = await self.budget.reserve(needed, context)
        pool = self._small if small else self._large
        read = partial(source.read, rule, with_picture=with_picture)
        job, loop = pool.submit(_unless_ended, read, context), asyncio.get_running_loop()
        kept = 0
        try:
            with self.budget.observe():
                upload = await asyncio.wrap_future(job)
            kept = _picture_bytes(upload)
        finally:
            if job.done():
                hold.shrink(min(kept, hold.size))
            else:  # the request was cancelled, but a decoder cannot be interrupted
                job.add_done_callback(lambda job: loop.call_soon_threadsafe(hold.shrink, 0))
            del job  # an error in it refers to this frame: see `_unless_ended`
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

    async def compute(self, work: Callable[[], _T], context: RequestContext) -> _T:
        """Run other work of a request, behind that of small images.

        Raises:
            DeadlineExceeded, ClientGone: the request is late, or its client has left.
        """
        return await self._run(self._large, work, context)

    def close(self) -> None:
        """End the threads; an image that is being decoded is finished."""
        self._small.shutdown(wait=False, cancel_futures=True)
        self._large.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    async def _run(pool: ThreadPoolExecutor, work: Callable[[], _T], context: RequestContext) -> _T:
        """Run `work` in a thread, unless the request has ended when its turn comes."""
        return await asyncio.get_running_loop().run_in_executor(pool, _unless_ended, work, context)


def _unless_ended(work: Callable[[], _T], context: RequestContext) -> _T:
    """Run `work`, unless the request has ended before its turn came."""
    problem = ended(context)
    if problem is not None:
        try:
            raise problem
        finally:
            # The traceback refers to this frame, and with it to the upload. Without this deletion,
            # the cycle would last until a garbage collection.
            del problem
    return work()


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
