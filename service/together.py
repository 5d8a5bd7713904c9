"""Several images of one request, in passes that they share with everybody else's."""

import asyncio
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.batching import Batcher, Row
from service.calls import Call


async def run_together(
    batcher: Batcher, images_hwc: Sequence[NDArray[np.uint8]], outputs: tuple[str, ...], call: Call
) -> list[Row]:
    """The outputs of each image, in their order; the caller holds as many places in the queue.

    In the times of the request they count as one.

    Raises:
        ServiceError: what one of them is refused with; the others are given up.
    """
    if len(images_hwc) == 1:
        return [await batcher.submit(images_hwc[0], outputs, call)]
    started = time.perf_counter()
    each = Call(deadline=call.deadline, gone=call.gone)
    tasks = [
        asyncio.ensure_future(batcher.submit(image_hwc, outputs, each)) for image_hwc in images_hwc
    ]
    try:
        rows = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    passes = [(begun, ended) for stage, begun, ended in each.stages if stage == "compute"]
    first, last = min(begun for begun, _ in passes), max(ended for _, ended in passes)
    call.stages += [("queue", started, first), ("compute", first, last)]
    return rows
