"""Budget of the memory that decoded images take in one worker."""

import asyncio
import bisect
import time
from collections.abc import Iterator
from contextlib import contextmanager

from limelight.errors import ClientGone, ImageTooLarge, Overloaded
from service.request_context import RequestContext

BUDGET_SHARE = 1.25
"""Memory of all large images and pictures at a time, beside the most that one image takes."""
# Interval at which waiting requests whose client has left are dropped.
_CHECK_S = 0.25
# Weight of the newest value in the running mean.
_NEWEST = 0.2


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


def _overloaded(wait_s: float) -> Overloaded:
    return Overloaded(
        "too many large images are being decoded: try again, or send a smaller one",
        retry_after_s=wait_s,
    )
