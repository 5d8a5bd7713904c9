"""Rollouts in a worker: which version answers a request, and what is counted of it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.inference.batch_runner import Outputs
from service.inference.classifier import Classifier
from service.inference.comparison import Comparer
from service.inference.shadow import Pair, Shadow
from service.repository.rollout import ROLLED_BACK, Rollout, RolloutProgress, Sums, Tally
from service.request_context import RequestContext
from service.telemetry.metrics import Metrics

_RANGE = 2.0**64


def takes_part(key: bytes, model: str, share: float) -> bool:
    """Return whether what `key` names belongs to the `share` of a model's clients or requests.

    A larger share has all members of a smaller one.
    """
    digest = blake2b(key + b"\0" + model.encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * _RANGE


class _Canary:
    """Request that takes part in a canary, on either side."""

    def __init__(self, sums: Sums, *, challenger: bool) -> None:
        self._sums, self._challenger = sums, challenger

    def keep(self, pixels_nhwc: NDArray[np.uint8], found: Outputs) -> None:
        """Ignore the outputs: those of a canary are not compared."""

    def end(self, status: int, context: RequestContext) -> None:
        # A client's own errors do not count: one client could otherwise roll a version back.
        if 400 <= status < 500:
            return
        failed, seconds = status >= 500, 0.0
        if not failed:  # the upload takes as long as the client likes
            stages = context.stages
            seconds = sum(end - start for stage, start, end in stages if stage != "read")
        if self._challenger:
            self._sums.challenger_requests += 1
            self._sums.challenger_errors += failed
            self._sums.challenger_seconds += seconds
        else:
            self._sums.champion_requests += 1
            self._sums.champion_errors += failed
            self._sums.champion_seconds += seconds


class _Shadowed:
    """Request whose images a shadow gets after the answer."""

    def __init__(self, shadow: Shadow, pair: Pair) -> None:
        self._shadow, self._pair = shadow, pair
        self._kept: tuple[NDArray[np.uint8], Outputs] | None = None

    def keep(self, pixels_nhwc: NDArray[np.uint8], found: Outputs) -> None:
        if self._kept is None:  # else it is the zoomed crop of the same image
            wanted = {name: found[name] for name in ("probabilities", "cams") if name in found}
            self._kept = pixels_nhwc, wanted

    def end(self, status: int, context: RequestContext) -> None:
        if status < 400 and self._kept is not None and "probabilities" in self._kept[1]:
            self._shadow.offer(self._pair, *self._kept)
        self._kept = None


class Rollouts:
    """Rollouts of the models of one worker.

    Args:
        header: name of the header that tells clients apart, in any case.
        idle: see `Shadow`.
    """

    def __init__(self, metrics: Metrics, header: str, idle: Callable[[], bool]) -> None:
        self._header = header.lower().encode()
        self._metrics = metrics
        self._shadow = Shadow(metrics, idle)
        self._progress: Mapping[str, RolloutProgress] = {}
        self._running: dict[str, Rollout] = {}
        self._tallies: dict[str, Tally] = {}

    def note(self, progress: Mapping[str, RolloutProgress]) -> None:
        """Note what the parent says about the rollouts, by model."""
        self._progress = progress
        self._running = {name: each.rollout for name, each in progress.items() if not each.ended}
        before, self._tallies = self._tallies, {}
        for name, rollout in self._running.items():
            tally = before.get(name)
            if tally is None or tally.started != rollout.started:
                tally = Tally(rollout.started)
            self._tallies[name] = tally
        self._metrics.models.set_rolled_back(
            {
                (name, each.rollout.version)
                for name, each in progress.items()
                if each.ended.startswith(ROLLED_BACK)
            }
        )

    def tallies(self) -> dict[str, Tally]:
        """Return a copy of what this worker has counted, by model."""
        return {
            name: replace(tally, sums=replace(tally.sums)) for name, tally in self._tallies.items()
        }

    def choose(
        self,
        served: Mapping[str, Classifier],
        headers: Mapping[bytes, bytes],
        context: RequestContext,
    ) -> Classifier:
        """Choose the version that answers a request that names none.

        `served` are the versions of the model, the active one first.
        """
        champion = next(iter(served.values()))
        name, version = champion.key
        rollout = self._running.get(name)
        if rollout is None or version != rollout.champion or rollout.version not in served:
            return champion
        challenger, tally = served[rollout.version], self._tallies[name]
        if rollout.kind == "canary":
            part = takes_part(self._client(headers, context), name, rollout.share)
            context.trial = _Canary(tally.sums, challenger=part)
            return challenger if part else champion
        if rollout.share == 1 or takes_part(context.id.encode(), name, rollout.share):
            context.trial = _Shadowed(self._shadow, Pair(champion, challenger, tally))
        return champion

    def describe(self, served: Mapping[str, Classifier]) -> dict[str, Any] | None:
        """Describe the last rollout of a model, over all workers; None if there was none."""
        champion = next(iter(served.values())).manifest
        progress = self._progress.get(champion.name)
        if progress is None:
            return None
        challenger, gaps = served.get(progress.rollout.version), []
        if challenger is not None and progress.rollout.kind == "shadow":
            gaps = Comparer(champion, challenger.manifest).gaps
        return progress.describe() | {"not_compared": gaps}

    def close(self) -> None:
        """Drop the comparison in progress."""
        self._shadow.close()

    def _client(self, headers: Mapping[bytes, bytes], context: RequestContext) -> bytes:
        given = headers.get(self._header)
        return given if given else (context.caller.name or context.id).encode()
