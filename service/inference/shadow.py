"""Shadow: a challenger sees the images that the champion has answered, while nothing else waits."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limelight.errors import LimelightError
from service.inference.batch_runner import Outputs
from service.inference.classifier import Classifier
from service.inference.comparison import COMPARED, Comparer
from service.repository.rollout import Tally
from service.request_context import RequestContext
from service.telemetry.metrics import Metrics

logger = logging.getLogger("limelight.shadow")

# Pause after a comparison, beside the time that it took. A request that comes during a comparison
# shares the processor with it. At 1 in 150 of the time those are too few for the p99, and 1 in 50
# raised it by 9 %.
REST = 149.0
# Longest wait for the background threads.
_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Pair:
    """Active version of a model, the version in its shadow, and what is counted of them."""

    champion: Classifier
    challenger: Classifier
    tally: Tally


class Shadow:
    """Comparisons of one worker, one at a time, with pauses. What comes in the meantime is shed.

    A comparison begins after the champion's answer was sent, and runs in the batchers' threads of
    low priority. It is dropped before a forward pass if a request has come in the meantime.

    Args:
        idle: returns True while no request of the worker waits or is computed; called from any
            thread.
    """

    def __init__(self, metrics: Metrics, idle: Callable[[], bool]) -> None:
        self._metrics = metrics
        self._idle = idle
        self._comparing: asyncio.Task[None] | None = None
        self._resting_until = 0.0

    def offer(self, pair: Pair, pixels_nhwc: NDArray[np.uint8], answered: Outputs) -> None:
        """Compare the challenger's answers with those that the champion gave, if there is time.

        `answered` has the champion's probabilities; without its `cams`, they are computed again.
        """
        resting = time.perf_counter() < self._resting_until
        if self._comparing is not None or resting or not self._idle():
            self._count(pair, "shed", len(pixels_nhwc))
        elif pair.champion.manifest.image != pair.challenger.manifest.image:
            pair.tally.problem = "the versions prepare images differently: use a canary"
        else:
            comparing = self._compare(pair, pixels_nhwc, answered)
            self._comparing = asyncio.get_running_loop().create_task(comparing)

    def close(self) -> None:
        """Drop the comparison in progress."""
        if self._comparing is not None:
            self._comparing.cancel()

    async def _compare(self, pair: Pair, pixels_nhwc: NDArray[np.uint8], answered: Outputs) -> None:
        started = time.perf_counter()
        champion, challenger, sums = pair.champion, pair.challenger, pair.tally.sums
        try:
            found = await self._run(challenger, pixels_nhwc, COMPARED)
            if "cams" not in answered:
                answered = {**answered, **await self._run(champion, pixels_nhwc, ("cams",))}
            comparer = Comparer(champion.manifest, challenger.manifest)
            compared = comparer.compare(answered, found)
        except LimelightError:  # a request has come, or the version is being unloaded
            self._count(pair, "shed", len(pixels_nhwc))
        except Exception:
            manifest = challenger.manifest
            logger.exception("the shadow %s %s has failed", manifest.name, manifest.version)
            self._count(pair, "failed", len(pixels_nhwc))
        else:
            self._count(pair, "compared", len(compared))
            for each in compared:
                sums.agreed += each.agrees
                if each.difference is not None:
                    sums.differences += 1
                    sums.difference += each.difference
                if each.correlation is not None:
                    sums.correlations += 1
                    sums.correlation += each.correlation
                self._metrics.shadows.observe(
                    challenger.key,
                    agrees=each.agrees,
                    difference=each.difference,
                    correlation=each.correlation,
                )
        finally:
            ended = time.perf_counter()
            self._comparing, self._resting_until = None, ended + REST * (ended - started)

    async def _run(
        self, classifier: Classifier, pixels_nhwc: NDArray[np.uint8], outputs: tuple[str, ...]
    ) -> Outputs:
        """Run images as background work; it is given up where a request would wait for it."""
        context = RequestContext(
            deadline=time.perf_counter() + _TIMEOUT_S, gone=lambda: not self._idle()
        )
        return await classifier.batcher.submit_all(pixels_nhwc, outputs, context, background=True)

    def _count(self, pair: Pair, result: str, images: int) -> None:
        sums = pair.tally.sums
        setattr(sums, result, getattr(sums, result) + images)
        self._metrics.shadows.count(pair.challenger.key, result, images)
