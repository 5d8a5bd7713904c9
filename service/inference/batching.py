"""Batching without a timer: a pass takes whatever arrived while the last one ran.

Knows no HTTP and no network: it is given a function that runs images through one.
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
    """Images that one caller wants in one pass: they are answered all, or none of them."""

    images_nhwc: NDArray[np.uint8]
    outputs: tuple[str, ...]
    context: RequestContext
    submitted: float
    future: asyncio.Future[Outputs]


# An item with its results, or with the reason why there are none.
_Answer = tuple[_Item, Outputs | Exception]


class Batcher:
    """Shares passes through the network among concurrent callers of one event loop.

    The threads take from the queue themselves: between two passes nobody waits for the event
    loop, which may be busy decoding.

    Args:
        run: images (N, H, W, C) and output names -> outputs by name, N first. Called from
            the batcher's own threads, at most `concurrency` times at once.
        max_batch: most images in one pass.
        max_queued: most images that wait; see `Admission`.
        concurrency: passes under way at once. More than one pays where a pass is not bound by
            the processor that prepares the next.
        expensive: outputs that make a batch slow; who wants one is not batched with others.
        observe: told the size of each batch that ran, and its seconds, by the thread that ran it.
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
        # One token an item: what the threads wait on.
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
        """Images that wait."""
        return _count(tuple(self._items))  # at once: the threads take from it

    @property
    def age_s(self) -> float:
        """Seconds that the oldest of them has waited."""
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
            DeadlineExceeded: the turn came too late; nothing was computed.
            ClientGone: the caller had left when the turn came; nothing was computed.
            NotReady: the batcher is closed.
            Exception: what the pass raised for this image alone.
        """
        found = await self.submit_all(image_hwc[None], outputs, context)
        return {name: values[0] for name, values in found.items()}

    async def submit_all(
        self,
        images_nhwc: NDArray[np.uint8],
        outputs: Sequence[str],
        context: RequestContext | None = None,
    ) -> Outputs:
        """Run images of one caller: (N, H, W, C) -> each of `outputs` by name, (N, ...).

        Up to `max_batch` of them stay together; with more, the stages of the call count from the
        first to the last.

        Raises:
            Exception: as `submit` does, for all of them.
        """
        context = context or RequestContext()
        if len(images_nhwc) <= self._max_batch:
            future = self._enqueue(images_nhwc, outputs, context)
            # A cancelled caller cancels the future: the item is skipped, or its result dropped.
            try:
                return await future
            finally:
                # An exception's traceback holds this frame, and this frame the exception, with all
                # that the request had brought, until a garbage collection that is long in coming.
                del future
        started, each = (
            time.perf_counter(),
            RequestContext(deadline=context.deadline, gone=context.gone),
        )
        futures = [
            self._enqueue(images_nhwc[at : at + self._max_batch], outputs, each)
            for at in range(0, len(images_nhwc), self._max_batch)
        ]
        try:
            found = await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()
            del futures, future
        passes = [(begun, ended) for stage, begun, ended in each.stages if stage == "compute"]
        first, last = min(begun for begun, _ in passes), max(ended for _, ended in passes)
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
        """Refuse new images, finish those that wait, and end the threads."""
        self._closed = True
        for _ in self._threads:
            self._tokens.put(False)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        await asyncio.sleep(0)  # what the threads left to the loop comes before this

    def _work(self) -> None:
        """What each thread does until the batcher is closed."""
        while batch := self._take():
            started = time.perf_counter()
            wanted, answers = self._sort_out(batch, started)
            for alike in self._parted(wanted):
                answers += self._serve(alike)
                # Of passes that overlap, only the time since the last one ended is this one's.
                ended = time.perf_counter()
                self.admission.ran(_count(alike), ended - max(started, self._last_end))
                self._last_end = ended
                self._hand_over(answers)
                answers = []
            if answers:
                self._hand_over(answers)

    def _hand_over(self, answers: list[_Answer]) -> None:
        if self._loop is not None:  # never: an item was submitted from it
            self._loop.call_soon_threadsafe(self._deliver, answers, time.perf_counter())

    def _take(self) -> list[_Item]:
        """Wait for an item, and take those that wait with it; none when all is done."""
        while not self._tokens.get():
            if not self._items:
                return []
            self._tokens.put(False)  # the end comes after what was put back
        batch = [self._items.popleft()]
        most, images = self._most_with(batch[0]), _count(batch)
        with contextlib.suppress(queue.Empty):
            while images < most:
                if not self._tokens.get_nowait():
                    self._tokens.put(False)  # the end comes after these
                    break
                item = self._items.popleft()
                images += len(item.images_nhwc)
                if images > most:
                    self._items.appendleft(item)
                    self._tokens.put(True)
                    break
                batch.append(item)
        return batch

    def _most_with(self, item: _Item) -> float:
        """So many images that the pass takes half of the time that `item` has left, at most.

        Where deadlines are tight, large passes would spend all of it: whoever comes just after
        the start of one has it and the next one to wait for.
        """
        admission = self.admission
        left_s = item.context.deadline - time.perf_counter() - admission.margin_s
        return min(self._max_batch, max(1.0, left_s / 2 / (admission.seconds_per_image or 1e-9)))

    def _sort_out(self, batch: list[_Item], now: float) -> tuple[list[_Item], list[_Answer]]:
        """Those whose answer somebody waits for and can have in time, and refusals of the rest."""
        wanted: list[_Item] = []
        answers: list[_Answer] = []
        admission = self.admission
        ready_at = now + admission.expected_s(_count(batch))
        for item in batch:
            context = item.context
            context.stages.append(("queue", item.submitted, now))
            if item.future.done():
                continue
            if context.gone():
                answers.append((item, ClientGone("the client has left")))
            # By the expected time alone only those are rejected who had to wait: one slow batch
            # would be held against everybody otherwise, and nobody be left to show a better time.
            elif context.deadline < (
                ready_at if item.submitted + admission.seconds_per_image < now else now
            ):
                answers.append((item, _too_late()))
            else:
                wanted.append(item)
        return wanted, answers

    def _parted(self, batch: list[_Item]) -> list[list[_Item]]:
        """Those that want something expensive apart, and last."""
        if not self._expensive:
            return [batch] if batch else []
        expensive = [item for item in batch if not self._expensive.isdisjoint(item.outputs)]
        cheap = [item for item in batch if self._expensive.isdisjoint(item.outputs)]
        return [part for part in (cheap, expensive) if part]

    def _serve(self, batch: list[_Item]) -> list[_Answer]:
        """Run a batch; if that fails, each item alone, so that only the culprit gets an error."""
        try:
            return self._pass(batch)
        except Exception as error:
            if len(batch) == 1:
                return [(batch[0], error)]
            logger.warning("a batch of %d failed; running each alone: %s", len(batch), error)
            return [answer for item in batch for answer in self._serve([item])]

    def _pass(self, batch: list[_Item]) -> list[_Answer]:
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
            # Copied, so that a small answer does not keep the whole batch's arrays alive.
            found = {
                name: results[name] if alone else results[name][begin:end].copy()
                for name in item.outputs
            }
            answers.append((item, found))
        self._observe(len(images_nhwc), ended - started)
        return answers

    def _deliver(self, answers: list[_Answer], since: float) -> None:
        """In the event loop: wake the callers."""
        self.admission.lagged(time.perf_counter() - since)
        for item, answer in answers:
            if item.future.done():
                continue
            if isinstance(answer, Exception):
                item.future.set_exception(answer)
            else:
                item.future.set_result(answer)


def _count(items: Sequence[_Item]) -> int:
    """Images of all of them."""
    return sum([len(item.images_nhwc) for item in items])


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("its turn came too late: try again", retry_after_s=1)
