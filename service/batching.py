"""Batching without a timer: a pass takes whatever arrived while the last one ran.

Knows no HTTP and no network: it is given a function that runs images through one.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import NotReady, Overloaded

Outputs = Mapping[str, NDArray[np.float32]]
Run = Callable[[NDArray[np.uint8], Sequence[str]], Outputs]

logger = logging.getLogger("limelight.batching")


@dataclass(slots=True)
class _Item:
    image_hwc: NDArray[np.uint8]
    outputs: frozenset[str]
    future: asyncio.Future[dict[str, NDArray[np.float32]]]


class Batcher:
    """Shares passes through the network among concurrent callers of one event loop.

    Args:
        run: images (N, H, W, C) and output names -> outputs by name, N first. Called from a
            thread of the batcher's own, never twice at once.
        max_batch: most images in one pass.
        max_queued: most images that wait; more are refused.
        observe: told the size of each batch that ran.
    """

    def __init__(
        self,
        run: Run,
        *,
        max_batch: int,
        max_queued: int = 1024,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_queued = max_queued
        self._observe = observe
        self._queue: deque[_Item] = deque()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="limelight-batch")
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def submit(
        self, image_hwc: NDArray[np.uint8], outputs: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        """Run one image: (H, W, C) -> each of `outputs` by name, without the batch dimension.

        Raises:
            Overloaded: too many images wait already.
            NotReady: the batcher is closed.
            Exception: what the pass raised for this image alone.
        """
        if self._closed:
            raise NotReady("the service is shutting down")
        if len(self._queue) >= self._max_queued:
            raise Overloaded(
                f"{self._max_queued} images are waiting already: try again", Retry_After="1"
            )
        loop = asyncio.get_running_loop()
        item = _Item(image_hwc, frozenset(outputs), loop.create_future())
        self._queue.append(item)
        if self._task is None:
            self._task = loop.create_task(self._drain())
        # A cancelled caller cancels the future: the item is then skipped, or its result dropped.
        return await item.future

    async def close(self) -> None:
        """Refuse new images, finish those that wait, and end the thread."""
        self._closed = True
        if self._task is not None:
            await self._task
        self._worker.shutdown()

    async def _drain(self) -> None:
        try:
            while batch := self._next_batch():
                await self._serve(batch)
        finally:
            self._task = None

    def _next_batch(self) -> list[_Item]:
        batch: list[_Item] = []
        while self._queue and len(batch) < self._max_batch:
            item = self._queue.popleft()
            if not item.future.done():
                batch.append(item)
        return batch

    async def _serve(self, batch: list[_Item]) -> None:
        try:
            results = await self._pass(batch)
        except Exception as error:
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            logger.warning("a batch of %d failed; running its images alone: %s", len(batch), error)
            for item in batch:
                if not item.future.done():
                    await self._serve([item])
            return
        for index, item in enumerate(batch):
            if not item.future.done():
                # Copied, so that a small answer does not keep the whole batch's arrays alive.
                item.future.set_result({name: results[name][index].copy() for name in item.outputs})

    async def _pass(self, batch: list[_Item]) -> Outputs:
        names = sorted(frozenset().union(*(item.outputs for item in batch)))

        def run() -> Outputs:
            results = self._run(np.stack([item.image_hwc for item in batch]), names)
            for name in names:
                if len(results[name]) != len(batch):
                    raise ValueError(
                        f"{name!r} has {len(results[name])} rows for {len(batch)} images"
                    )
            return results

        results = await asyncio.get_running_loop().run_in_executor(self._worker, run)
        self._observe(len(batch))
        return results


def _fail(item: _Item, error: Exception) -> None:
    if not item.future.done():
        item.future.set_exception(error)
