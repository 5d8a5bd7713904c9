"""Batching without a timer: a batch takes the images that arrived while the last one ran.

This module does not depend on HTTP or on a network: it is given a function that runs a batch.
"""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limelight.errors import ClientGone, DeadlineExceeded, NotReady
from service.inference.admission import Admission
from service.request_context import RequestContext

Outputs = Mapping[str, NDArray[np.float32]]
Row = dict[str, NDArray[np.float32]]
Run = Callable[[NDArray[np.uint8], Sequence[str]], Outputs]

logger = logging.getLogger("limelight.batching")


@dataclass(slots=True)
class _Item:
    """Images of one caller that must run in the same batch; all of them are answered, or none."""

    images_nhwc: NDArray[np.uint8]
    outputs: tuple[str, ...]
    context: RequestContext
    submitted: float
    future: asyncio.Future[Outputs]


# An item with its outputs, or with the error that it gets instead.
_Answer = tuple[_Item, Outputs | Exception]


class Batcher:
    """Queue that batches the images of concurrent callers of one event loop.

    The batcher's threads take items from the queue themselves. So the next batch does not wait for
    the event loop, which may be busy decoding.

    Args:
        run: runs a batch: images (N, H, W, C) and output names -> outputs by name, N first.
            Called from the batcher's threads, at most `concurrency` times at once.
        max_batch: maximum number of images in a batch.
        max_queued: maximum number of admitted images; see `Admission`.
        concurrency: number of batches that run at once. More than one helps if a forward pass does
            not occupy the processor that prepares the next batch.
        expensive: outputs that are slow to compute. Items that request one get their own batch.
        observe: called with the size and the seconds of each completed batch, in the thread that
            ran it.
    """

    def __init__(
        self,
        run: Run,
        *,
        max_batch: int,
        max_queued: int = 4096,
        concurrency: int = 1,
        expensive: frozenset[str] = frozenset(),
        observe: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self.admission = Admission(max_queued)
        self._expensive = expensive
        self._observe = observe
        self._items: deque[_Item] = deque()
        # One token per item. The threads wait for tokens.
        self._tokens: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last_end = 0.0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"limelight-batch-{number}", daemon=True)
            for number in range(concurrency)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def depth(self) -> int:
        """Number of images in the queue."""
        return _count(tuple(self._items))  # a copy, because the threads change the queue

    @property
    def age_s(self) -> float:
        """Seconds that the oldest item in the queue has waited."""
        try:
            return time.perf_counter() - self._items[0].submitted
        except IndexError:
            return 0.0

    async def submit(
        self,
        image_hwc: NDArray[np.uint8],
        outputs: Sequence[str],
        context: RequestContext | None = None,
    ) -> Row:
        """Run one image: (H, W, C) -> each of `outputs` by name, without the batch dimension.

        Raises:
            DeadlineExceeded: the batch would end after the deadline; nothing was computed.
            ClientGone: the client disconnected before the batch began; nothing was computed.
            NotReady: the batcher is closed.
            Exception: `run` raised it for this image alone.
        """
        found = await self.submit_all(image_hwc[None], outputs, context)
        return {name: values[0] for name, values in found.items()}

    async def submit_all(
        self,
        images_nhwc: NDArray[np.uint8],
        outputs: Sequence[str],
        context: RequestContext | None = None,
    ) -> Outputs:
        """Run the images of one caller: (N, H, W, C) -> each of `outputs` by name, (N, ...).

        Up to `max_batch` images run in the same batch. With more images, the stages of the call
        extend from the first batch to the last.

        Raises:
            Exception: see `submit`; an error of one image fails the whole call.
        """
        context = context or RequestContext()
        if len(images_nhwc) <= self._max_batch:
            future = self._enqueue(images_nhwc, outputs, context)
            # Cancelling the caller cancels the future: its item is skipped, or its result dropped.
            try:
                return await future
            finally:
                # An exception's traceback refers to this frame, and the future in this frame refers
                # to the exception. The cycle would keep the request's data in memory until a late
                # garbage collection.
                del future
        started = time.perf_counter()
        part_context = RequestContext(deadline=context.deadline, gone=context.gone)
        futures = [
            self._enqueue(images_nhwc[start : start + self._max_batch], outputs, part_context)
            for start in range(0, len(images_nhwc), self._max_batch)
        ]
        try:
            found = await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()
            del futures, future
        batches = [
            (begun, ended) for stage, begun, ended in part_context.stages if stage == "compute"
        ]
        first, last = min(begun for begun, _ in batches), max(ended for _, ended in batches)
        context.stages += [("queue", started, first), ("compute", first, last)]
        return {name: np.concatenate([part[name] for part in found]) for name in outputs}

    def _enqueue(
        self, images_nhwc: NDArray[np.uint8], outputs: Sequence[str], context: RequestContext
    ) -> asyncio.Future[Outputs]:
        if self._closed:
            raise NotReady("the service is shutting down", retry_after_s=1)
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Outputs] = self._loop.create_future()
        self._items.append(_Item(images_nhwc, tuple(outputs), context, time.perf_counter(), future))
        self._tokens.put(True)
        return future

    async def close(self) -> None:
        """Reject new images, finish the queue, and end the threads."""
        self._closed = True
        for _ in self._threads:
            self._tokens.put(False)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        await asyncio.sleep(0)  # lets the callbacks of the threads run first

    def _work(self) -> None:
        """Run batches until the batcher is closed; the main function of each thread."""
        while batch := self._next_batch():
            started = time.perf_counter()
            live, answers = self._reject_expired(batch, started)
            for part in self._split_by_cost(live):
                answers += self._run_with_retry(part)
                # If batches overlap, this one counts only from the end of the last one.
                ended = time.perf_counter()
                self.admission.observe_batch(_count(part), ended - max(started, self._last_end))
                self._last_end = ended
                self._schedule_delivery(answers)
                answers = []
            if answers:
                self._schedule_delivery(answers)

    def _schedule_delivery(self, answers: list[_Answer]) -> None:
        if self._loop is not None:  # always true: submitting an item sets the loop
            self._loop.call_soon_threadsafe(self._deliver, answers, time.perf_counter())

    def _next_batch(self) -> list[_Item]:
        """Wait for an item and take it with others from the queue; empty after closing."""
        while not self._tokens.get():
            if not self._items:
                return []
            self._tokens.put(False)  # the end marker follows the items that were put back
        batch = [self._items.popleft()]
        limit, images = self._batch_limit(batch[0]), _count(batch)
        with contextlib.suppress(queue.Empty):
            while images < limit:
                if not self._tokens.get_nowait():
                    self._tokens.put(False)  # the end marker follows these items
                    break
                item = self._items.popleft()
                images += len(item.images_nhwc)
                if images > limit:
                    self._items.appendleft(item)
                    self._tokens.put(True)
                    break
                batch.append(item)
        return batch

    def _batch_limit(self, first: _Item) -> float:
        """Return a batch size whose batch takes at most half of the time that `first` has left.

        A request that arrives just after the start of a batch waits for that batch and for the
        next one. With tight deadlines, large batches would use up all of its time.
        """
        admission = self.admission
        left_s = first.context.deadline - time.perf_counter() - admission.margin_s
        return min(self._max_batch, max(1.0, left_s / 2 / (admission.seconds_per_image or 1e-9)))

    def _reject_expired(self, batch: list[_Item], now: float) -> tuple[list[_Item], list[_Answer]]:
        """Split a batch into the items to run and the errors of late or abandoned items."""
        live: list[_Item] = []
        answers: list[_Answer] = []
        admission = self.admission
        ready_at = now + admission.expected_s(_count(batch))
        for item in batch:
            context = item.context
            context.stages.append(("queue", item.submitted, now))
            if item.future.done():
                continue
            if context.gone():
                answers.append((item, ClientGone("the client has disconnected")))
            # The expected time counts only for items that had to wait. Otherwise, after one slow
            # batch, all items would be rejected, and no later batch could correct the mean.
            elif context.deadline < (
                ready_at if item.submitted + admission.seconds_per_image < now else now
            ):
                answers.append((item, _deadline_error()))
            else:
                live.append(item)
        return live, answers

    def _split_by_cost(self, batch: list[_Item]) -> list[list[_Item]]:
        """Split off the items that request expensive outputs; they run last."""
        if not self._expensive:
            return [batch] if batch else []
        expensive = [item for item in batch if not self._expensive.isdisjoint(item.outputs)]
        cheap = [item for item in batch if self._expensive.isdisjoint(item.outputs)]
        return [part for part in (cheap, expensive) if part]

    def _run_with_retry(self, batch: list[_Item]) -> list[_Answer]:
        """Run a batch; if it fails, run each item alone, so that only the bad item fails."""
        try:
            return self._run_batch(batch)
        except Exception as error:
            if len(batch) == 1:
                return [(batch[0], error)]
            logger.warning("a batch of %d failed; running each alone: %s", len(batch), error)
            return [answer for item in batch for answer in self._run_with_retry([item])]

    def _run_batch(self, batch: list[_Item]) -> list[_Answer]:
        names = sorted({name for item in batch for name in item.outputs})
        started = time.perf_counter()
        alone = len(batch) == 1
        images_nhwc = (
            batch[0].images_nhwc if alone else np.concatenate([item.images_nhwc for item in batch])
        )
        results = self._run(images_nhwc, names)
        for name in names:
            if len(results[name]) != len(images_nhwc):
                raise ValueError(
                    f"{name!r} has {len(results[name])} rows for {len(images_nhwc)} images"
                )
        ended = time.perf_counter()
        answers: list[_Answer] = []
        end = 0
        for item in batch:
            item.context.stages.append(("compute", started, ended))
            begin, end = end, end + len(item.images_nhwc)
            # A copy, so that a small result does not keep the arrays of the whole batch alive.
            found = {
                name: results[name] if alone else results[name][begin:end].copy()
                for name in item.outputs
            }
            answers.append((item, found))
        self._observe(len(images_nhwc), ended - started)
        return answers

    def _deliver(self, answers: list[_Answer], scheduled: float) -> None:
        """Set the results of the futures; runs in the event loop."""
        self.admission.observe_lag(time.perf_counter() - scheduled)
        for item, answer in answers:
            if item.future.done():
                continue
            if isinstance(answer, Exception):
                item.future.set_exception(answer)
            else:
                item.future.set_result(answer)


def _count(items: Sequence[_Item]) -> int:
    """Return the number of images in all items."""
    return sum([len(item.images_nhwc) for item in items])


def _deadline_error() -> DeadlineExceeded:
    return DeadlineExceeded("the answer would come too late: try again", retry_after_s=1)
