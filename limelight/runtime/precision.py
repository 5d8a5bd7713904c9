"""Choice of the graph that an artefact runs on this processor: float32, float16 or int8.

Pairs of products of 8 bits saturate on x86 processors that have AVX2 and no VNNI, so an int8 graph
that is right on one processor may be wrong on another. And whether it is faster depends on the
processor, too. So both are tried on the artefact's golden samples before the first request.
"""

import time
from collections.abc import MutableMapping, Sequence
from functools import partial
from typing import Literal

import numpy as np

from limelight.artifact.golden import GOLDEN_OUTPUTS, GoldenSamples, read_golden
from limelight.artifact.manifest import Network
from limelight.artifact.store import Artifact
from limelight.imaging.image_rule import ImageRule
from limelight.runtime.engine import Engine
from limelight.runtime.onnx_session import Device, EngineError, Precision

# Processors differ by rounding, and int8 by a few units of its last bit. A saturating processor
# changes every seventh prediction (a distance of 0.1 and more).
_MOST_ERROR, _MOST_ERROR_BY_EXPORT = 0.002, 4.0
_LEAST_SPEEDUP = 1.1
_TIMED_WORK, _MOST_TIMED_IMAGES = 1_000_000_000, 16
_TIMED_SECONDS, _ROUNDS = 0.2, range(3, 20)
# A speed-up outside of this range is clear after the fewest rounds.
_UNCLEAR = 0.95, 1.3
_FASTER = "it is right and {:.2f} times as fast on this processor"

Speedups = MutableMapping[tuple[Network, ImageRule], float]
"""Speed of int8 divided by that of float32 on this processor, by network and image."""


def choose_engine(
    artifact: Artifact,
    *,
    device: Device = "auto",
    threads: int = 1,
    precision: Literal["auto", Precision] = "auto",
    speedups: Speedups | None = None,
) -> Engine:
    """Open the graph that runs best here, and check it with the artefact's golden samples.

    The engine's `precision_reason` says why it was chosen.

    Args:
        artifact: verified artefact to run.
        device: see `Engine`.
        threads: see `Engine`.
        precision: ``auto`` is float16 on a GPU if the artefact has such a graph. On a CPU it is
            int8 if the artefact has such a graph, which gives right answers on this processor and
            is at least 1.1 times as fast. Otherwise it is float32.
        speedups: what was measured before, on the same device and with as many threads. A new
            measurement is added. Another version of a network is not timed again, so it loads in a
            third of the time, and disturbs requests less.

    Raises:
        EngineError: the requested graph does not exist or gives wrong answers, or see `Engine`.
        ArtifactError: see `Engine`.
    """
    opened = partial(Engine, artifact, device=device, threads=threads)
    golden = read_golden(artifact)
    has_int8 = artifact.manifest.int8_file is not None
    network = artifact.manifest.network, artifact.manifest.image
    known = 0.0 if speedups is None else speedups.get(network, 0.0)
    if precision == "auto" and has_int8 and golden is not None and known >= _LEAST_SPEEDUP:
        int8 = opened(precision="int8")
        if golden_problem(int8, golden) is None:
            return _because(int8, _FASTER.format(known))
    engine = opened(precision=precision)
    problem = None if golden is None else golden_problem(engine, golden)
    if problem is not None:
        raise EngineError(f"{problem}{_REMEDIES.get(engine.precision, _REMEDY)}")
    if precision != "auto":
        return _because(engine, f"{precision} is demanded")
    if engine.provider != "CPU":
        return _because(engine, f"it is the best for {engine.provider}")
    if golden is None or not has_int8:
        return _because(engine, "the model has no int8 graph with golden samples")
    int8 = opened(precision="int8", layercam_of=engine)
    problem = golden_problem(int8, golden)
    if problem is not None:
        return _because(engine, problem)
    speedup = known or _speedup(engine, int8, golden, threads=threads)
    if speedups is not None:
        speedups[network] = speedup
    if speedup < _LEAST_SPEEDUP:
        return _because(engine, f"int8 is only {speedup:.2f} times as fast on this processor")
    return _because(int8, _FASTER.format(speedup))


def _because(engine: Engine, reason: str) -> Engine:
    engine.precision_reason = reason
    return engine


_REMEDY = ": run the model on another device, or export the run again"
_REMEDIES = {
    "int8": ": set LIMELIGHT_PRECISION=auto",
    "float16": ": set LIMELIGHT_PRECISION=float32",
}


def golden_problem(engine: Engine, golden: GoldenSamples) -> str | None:
    """Return how an engine's outputs differ from the golden ones; None if they agree."""
    manifest = engine.manifest
    limits = manifest.golden.errors.get(engine.file) if manifest.golden is not None else None
    found = golden.error_of(engine.run(golden.images, GOLDEN_OUTPUTS))
    for output in GOLDEN_OUTPUTS:
        at_export = 0.0 if limits is None else getattr(limits, output)
        limit = max(_MOST_ERROR, _MOST_ERROR_BY_EXPORT * at_export)
        error = getattr(found, output)
        if not error <= limit:
            return (
                f"{engine.file} of {manifest.name} gives wrong answers on this processor: its "
                f"{output} differ from those of the golden samples by {error:.2g}, and at most "
                f"{limit:.2g} is right"
            )
    return None


def _speedup(plain: Engine, other: Engine, golden: GoldenSamples, *, threads: int) -> float:
    """Return how many times as fast `other` is as `plain`: the ratio of their shortest times."""
    work = plain.manifest.network.multiply_accumulates
    batch = int(np.clip(_TIMED_WORK // max(1, work), 1, _MOST_TIMED_IMAGES))
    images = np.resize(golden.images, (batch, *golden.images.shape[1:]))
    engines: Sequence[Engine] = (plain, other)
    shortest = [float("inf"), float("inf")]
    # Other work of this machine does not count, such as requests while a new version is loaded. Of
    # several threads, only their time together can be measured.
    clock = time.thread_time if threads == 1 else time.perf_counter
    started, speedup = time.perf_counter(), 0.0
    for done in range(_ROUNDS.stop):
        if done >= _ROUNDS.start:
            unclear = _UNCLEAR[0] < speedup < _UNCLEAR[1]
            if not unclear or time.perf_counter() - started > _TIMED_SECONDS:
                break
        for which, engine in enumerate(engines):
            began = clock()
            engine.run(images, GOLDEN_OUTPUTS)
            shortest[which] = min(shortest[which], clock() - began)
        speedup = shortest[0] / shortest[1]
    return speedup
