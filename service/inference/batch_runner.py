"""Run of one batch: the images of several callers through the network, and back to each of them."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.request_context import RequestContext

Outputs = Mapping[str, NDArray[np.float32]]
"""Outputs of N images by name, each (N, ...)."""
Run = Callable[[NDArray[np.uint8], Sequence[str]], Outputs]
"""Function that runs a batch: images (N, H, W, C) and names of outputs -> the outputs."""

logger = logging.getLogger("limelight.batching")


@dataclass(slots=True)
class Item:
    """Images of one caller that must run in the same batch; all of them are answered, or none."""

    images_nhwc: NDArray[np.uint8]
    outputs: tuple[str, ...]
    context: RequestContext
    submitted: float
    future: asyncio.Future[Outputs]
    expensive: bool = False


Answer = tuple[Item, Outputs | Exception]
"""An item with its outputs, or with the error that it gets instead."""


def image_count(items: Sequence[Item]) -> int:
    """Return the number of images in all items."""
    return sum([len(item.images_nhwc) for item in items])


class BatchRunner:
    """Runner of batches.

    Args:
        run: runs a batch: images (N, H, W, C) and output names -> outputs by name, N first.
        observe: called with the size and the seconds of each completed batch.
    """

    def __init__(self, run: Run, observe: Callable[[int, float], None]) -> None:
        self._run, self._observe = run, observe

    def run(self, batch: list[Item]) -> list[Answer]:
        """Run a batch; if it fails, run each item alone, so that only the bad item fails."""
        try:
            return self._run_together(batch)
        except Exception as error:
            if len(batch) == 1:
                return [(batch[0], error)]
            logger.warning("a batch of %d failed; running each alone: %s", len(batch), error)
            return [answer for item in batch for answer in self.run([item])]

    def _run_together(self, batch: list[Item]) -> list[Answer]:
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
        answers: list[Answer] = []
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
