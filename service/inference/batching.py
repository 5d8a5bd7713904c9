"""Batching without a timer: a batch takes the images that arrived while the last one ran.

The queue is shared fairly between callers. Background work (masked images, expensive outputs, of
which one explanation may need hundreds) has a queue and a thread of its own, so that predictions do
not wait for it.

This module does not depend on HTTP or on a network: it is given a function that runs a batch.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from limelight.errors import ClientGone, DeadlineExceeded, NotReady
from service.inference.admission import Admission
from service.inference.batch_runner import Answer, BatchRunner, Item, Outputs, Run, image_count
from service.inference.fair_queue import FairQueue
from service.inference.image_times import ImageTimes
from service.request_context import RequestContext
from service.system.priority import yield_processor

Row = dict[str, NDArray[np.float32]]
"""Outputs of one image by name, without the batch dimension."""


class _Lane:
    """Queue of foreground or of background work, and the tokens that its threads wait for."""

    def __init__(self, *, background: bool, number: int) -> None:
        self.background = background
        self.number = number
        self.items: FairQueue[Item] = FairQueue()
        # One token per item; False is the end marker.
        self.tokens: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.last_end = 0.0
        self.threads: list[threading.Thread] = []


class Batcher:
    """Queue that batches the images of concurrent callers of one event loop.

    The batcher's threads take items from the queue themselves. So the next batch does not wait for
    the event loop, which may be busy decoding.

    Args:
        run: runs a batch: images (N, H, W, C) and output names -> outputs by name, N first.
            Called from the batcher's threads, at most `concurrency` times at once, and once more
            for background work.
        max_batch: maximum number of images in a batch.
        max_queued: maximum number of admitted images; see `Admission`.
        concurrency: number of batches that run at once. More than one helps if a forward pass does
            not occupy the processor that prepares the next batch.
        expensive: outputs that are slow to compute. Items that request one get their own batch.
        observe: called with the size and the seconds of each completed batch, in the thread that
            ran it.

    Attributes:
        used: time of the last image, on the monotonic clock; before the first, of the creation.
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
        self._runner = BatchRunner(run, observe)
        self._max_batch = max_batch
        self.admission = Admission(max_queued)
        self._expensive = expensive
        self._times = ImageTimes()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self.used = time.monotonic()
        self._foreground = _Lane(background=False, number=concurrency)
        self._background = _Lane(background=True, number=1)

    @property
    def depth(self) -> int:
        """Number of images in the queue."""
        return self._foreground.items.images + self._background.items.images

    @property
    def age_s(self) -> float:
        """Seconds that the oldest item in the queue has waited."""
        heads = [*self._foreground.items.heads(), *self._background.items.heads()]
        oldest = min((item.submitted for item in heads), default=None)
        return 0.0 if oldest is None else time.perf_counter() - oldest

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
        *,
        background: bool = False,
    ) -> Outputs:
        """Run the images of one caller: (N, H, W, C) -> each of `outputs` by name, (N, ...).

        Up to `max_batch` images run in the same batch. With more images, or more than a turn of
        background work, the stages of the call extend from the first batch to the last.

        Raises:
            Exception: see `submit`; an error of one image fails the whole call.
        """
        context = context or RequestContext()
        most = self._max_batch
        if background:
            expensive = not self._expensive.isdisjoint(outputs)
            most = min(most, self._times.images_per_turn(expensive=expensive))
        if len(images_nhwc) <= most:
            future = self._enqueue(images_nhwc, outputs, context, background=background)
            # Cancelling the caller cancels the future: its item is skipped, or its result dropped.
            try:
                return await future
            finally:
                # An exception's traceback refers to this frame, and the future in this frame refers
                # to the exception. The cycle would keep the request's data in memory until a late
                # garbage collection.
                del future
        started = time.perf_counter()
        part_context = replace(context, stages=[])
        futures = [
            self._enqueue(
                images_nhwc[start : start + most], outputs, part_context, background=background
            )
            for start in range(0, len(images_nhwc), most)
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
        self,
        images_nhwc: NDArray[np.uint8],
        outputs: Sequence[str],
        context: RequestContext,
        *,
        background: bool,
    ) -> asyncio.Future[Outputs]:
        if self._closed:
            raise NotReady("the service is shutting down", retry_after_s=1)
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self.used = time.monotonic()
        future: asyncio.Future[Outputs] = self._loop.create_future()
        expensive = not self._expensive.isdisjoint(outputs)
        lane = self._background if background or expensive else self._foreground
        if not lane.threads:
            self._start(lane)
        lane.items.put(
            Item(images_nhwc, tuple(outputs), context, time.perf_counter(), future, expensive),
            context.caller.name,
            weight=context.caller.share,
            images=len(images_nhwc),
            cost=len(images_nhwc) * self._times.relative(expensive=expensive),
        )
        lane.tokens.put(True)
        return future

    def _start(self, lane: _Lane) -> None:
        """Start the threads of a lane, from the event loop: they inherit its priority.

        A model may be loaded by a thread of low priority.
        """
        name = "limelight-background" if lane.background else "limelight-batch"
        for number in range(lane.number):
            thread = threading.Thread(
                target=self._work, args=(lane,), name=f"{name}-{number}", daemon=True
            )
            lane.threads.append(thread)
            thread.start()

    async def close(self) -> None:
        """Reject new images, finish the queue, and end the threads."""
        self._closed = True
        lanes = self._foreground, self._background
        for lane in lanes:
            for _ in lane.threads:
                lane.tokens.put(False)
        for lane in lanes:
            for thread in lane.threads:
                await asyncio.to_thread(thread.join)
        await asyncio.sleep(0)  # lets the callbacks of the threads run first

    def _work(self, lane: _Lane) -> None:
        """Run batches until the batcher is closed; the main function of each thread."""
        if lane.background:
            yield_processor()
        while batch := self._next_batch(lane):
            started = time.perf_counter()
            live, answers = self._reject_expired(batch, started, background=lane.background)
            for part in self._split_by_cost(live):
                answers += self._runner.run(part)
                # If batches overlap, this one counts only from the end of the last one.
                ended = time.perf_counter()
                seconds = ended - max(started, lane.last_end)
                self.admission.observe_batch(image_count(part), seconds, background=lane.background)
                self._times.observe(image_count(part), seconds, expensive=part[0].expensive)
                lane.last_end = ended
                self._schedule_delivery(answers)
                answers = []
            if answers:
                self._schedule_delivery(answers)

    def _schedule_delivery(self, answers: list[Answer]) -> None:
        if self._loop is not None:  # always true: submitting an item sets the loop
            self._loop.call_soon_threadsafe(self._deliver, answers, time.perf_counter())

    def _next_batch(self, lane: _Lane) -> list[Item]:
        """Wait for an item and take it with others from the queue; empty after closing."""
        tokens = lane.tokens
        while not tokens.get():
            if not lane.items:
                return []
            tokens.put(False)  # the end marker follows the items that are left
        batch = [lane.items.take()]
        limit, images = self._batch_limit(batch[0], background=lane.background), image_count(batch)
        with contextlib.suppress(queue.Empty):
            while images < limit:
                if not tokens.get_nowait():
                    tokens.put(False)  # the end marker follows these items
                    break
                item = lane.items.take_fitting(limit - images)
                if item is None:
                    tokens.put(True)
                    break
                images += len(item.images_nhwc)
                batch.append(item)
        return batch

    def _batch_limit(self, first: Item, *, background: bool) -> float:
        """Return a batch size whose batch takes at most half of the time that `first` has left.

        A request that arrives just after the start of a batch waits for that batch and for the
        next one. With tight deadlines, large batches would use up all of its time. A batch of
        background work takes a turn.
        """
        if background:
            return min(self._max_batch, self._times.images_per_turn(expensive=first.expensive))
        admission = self.admission
        left_s = first.context.deadline - time.perf_counter() - admission.margin_s
        return min(self._max_batch, max(1.0, left_s / 2 / (admission.seconds_per_image or 1e-9)))

    def _reject_expired(
        self, batch: list[Item], now: float, *, background: bool
    ) -> tuple[list[Item], list[Answer]]:
        """Split a batch into the items to run and the errors of late or abandoned items."""
        live: list[Item] = []
        answers: list[Answer] = []
        admission = self.admission
        seconds = admission.seconds_per_image
        ready_at = now + admission.expected_s(image_count(batch))
        if background:
            seconds = admission.background_seconds_per_image
            ready_at = now + admission.expected_background_s(image_count(batch))
        for item in batch:
            context = item.context
            context.stages.append(("queue", item.submitted, now))
            if item.future.done():
                continue
            if context.gone():
                answers.append((item, ClientGone("the client has disconnected")))
            # The expected time counts only for items that had to wait. Otherwise, after one slow
            # batch, all items would be rejected, and no later batch could correct the mean.
            elif context.deadline < (ready_at if item.submitted + seconds < now else now):
                answers.append((item, _deadline_error()))
            else:
                live.append(item)
        return live, answers

    def _split_by_cost(self, batch: list[Item]) -> list[list[Item]]:
        """Split off the items that request expensive outputs; they run last."""
        if not self._expensive:
            return [batch] if batch else []
        expensive = [item for item in batch if item.expensive]
        cheap = [item for item in batch if not item.expensive]
        return [part for part in (cheap, expensive) if part]

    def _deliver(self, answers: list[Answer], scheduled: float) -> None:
        """Set the results of the futures; runs in the event loop."""
        self.admission.observe_lag(time.perf_counter() - scheduled)
        for item, answer in answers:
            if item.future.done():
                continue
            if isinstance(answer, Exception):
                item.future.set_exception(answer)
            else:
                item.future.set_result(answer)


def _deadline_error() -> DeadlineExceeded:
    return DeadlineExceeded("the answer would come too late: try again", retry_after_s=1)
