"""Ways to run one pass, beside each other: `python -m bench.passes`.

What the service does (`engine`), ONNX Runtime's plain `run`, the same with inputs and outputs bound
once (`bound`), from and to page-locked memory (`pinned`, which is what the service does on a GPU),
and as a CUDA graph (`graph`); of the float32 graph and, where the artefact has one, of the float16
one; and the engine from two threads at once. Every way has to give what the engine gives before it
is timed. What cannot be had is said, with why: without a GPU, the page-locked memory and the graph.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bench.serving.environments import ROOT
from bench.serving.machine import cpu_name
from bench.serving.plan import rotated
from bench.serving.summary import Spread
from limelight.artifact.store import Artifact, load_artifact, newest_version
from limelight.runtime import cuda
from limelight.runtime.engine import Engine
from limelight.runtime.io_binding import Allocate, IoBinding
from limelight.runtime.onnx_session import (
    CUDA_OPTIONS,
    Device,
    EngineError,
    Precision,
    Provider,
    open_session,
    provider_of,
)

OUTPUTS = ("logits", "probabilities", "ood_score")
"""What a prediction reads."""
_TOLERANCE = 0.02  # of a probability; float16 needs most of it
_WARM_UP = 3  # passes; the first captures a CUDA graph

Outputs = dict[str, NDArray[np.float32]]
Pass = Callable[[], Outputs]
"""From images in ordinary memory to outputs in ordinary memory, whatever lies between."""


class NotHereError(Exception):
    """No such way on this machine, or for this artefact; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What one way is to run."""

    artifact: Artifact
    precision: Precision
    images_nhwc: NDArray[np.uint8]
    device: Device
    provider: Provider
    """What that device comes to here."""
    threads: int

    @property
    def path(self) -> Path:
        """The graph of that precision.

        Raises:
            NotHereError: there is none.
        """
        if self.precision == "float32":
            return self.artifact.onnx_path
        if self.artifact.fp16_path is None:
            raise NotHereError("the artefact has no float16 graph: export it with --fp16")
        return self.artifact.fp16_path

    def session(self) -> ort.InferenceSession:
        """As the service opens it."""
        return open_session(self.path, device=self.device, threads=self.threads)

    def blanks(self) -> dict[str, tuple[int, ...]]:
        """The shape of each output at this batch."""
        shapes = {tensor.name: tensor.shape[1:] for tensor in self.artifact.manifest.outputs}
        batch = len(self.images_nhwc)
        return {name: (batch, *(int(size) for size in shapes[name])) for name in OUTPUTS}


def engine(setup: Setup) -> Pass:
    """What the service does."""
    made = Engine(
        setup.artifact,
        device=setup.device,
        threads=setup.threads,
        precision=setup.precision,
    )
    return lambda: made.run(setup.images_nhwc, OUTPUTS)


def plain(setup: Setup) -> Pass:
    """The runtime's own way: it makes room for inputs and outputs in each pass."""
    session, feed = setup.session(), {"images": setup.images_nhwc}
    return lambda: dict(zip(OUTPUTS, session.run(OUTPUTS, feed), strict=True))


def bound(setup: Setup) -> Pass:
    """Into and out of arrays that stay where they are."""
    return _with_io_binding(setup, np.empty)


def pinned(setup: Setup) -> Pass:
    """The same in memory that a GPU can reach by itself."""
    if setup.provider == "CPU":
        raise NotHereError("page-locked memory is for a GPU")
    return _with_io_binding(setup, cuda.page_locked)


def graph(setup: Setup) -> Pass:
    """Captured once and replayed: the GPU is told of all of a pass at once."""
    if setup.provider != "CUDA":
        raise NotHereError("CUDA graphs are for a GPU")
    options = {**CUDA_OPTIONS, "enable_cuda_graph": "1"}
    session = ort.InferenceSession(
        str(setup.path), providers=[("CUDAExecutionProvider", options), "CPUExecutionProvider"]
    )
    binding = session.io_binding()
    given = ort.OrtValue.ortvalue_from_shape_and_type(setup.images_nhwc.shape, np.uint8, "cuda", 0)
    binding.bind_ortvalue_input("images", given)
    results = {}
    for name, shape in setup.blanks().items():
        results[name] = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cuda", 0)
        binding.bind_ortvalue_output(name, results[name])
    how = ort.RunOptions()
    how.add_run_config_entry("gpu_graph_id", "1")

    def run() -> Outputs:
        given.update_inplace(setup.images_nhwc)
        session.run_with_iobinding(binding, how)
        return {name: result.numpy() for name, result in results.items()}

    return run


WAYS: dict[str, Callable[[Setup], Pass]] = {
    "engine": engine,
    "run": plain,
    "bound": bound,
    "pinned": pinned,
    "graph": graph,
}


def _with_io_binding(setup: Setup, allocate: Allocate) -> Pass:
    io_binding = IoBinding(
        setup.session(),
        image_shape=setup.images_nhwc.shape[1:],
        output_shapes={name: shape[1:] for name, shape in setup.blanks().items()},
        device="cpu" if setup.provider == "CPU" else "cuda",
        allocate=allocate,
    )

    def run() -> Outputs:
        results = io_binding.run(setup.images_nhwc, OUTPUTS)
        if results is None:
            raise NotHereError("a lane of this size needs more memory than lanes may have")
        return dict(zip(OUTPUTS, results, strict=True))

    return run


@dataclass(frozen=True, slots=True)
class Measured:
    """Images a second by one way at one batch size, over the repeats."""

    way: str
    batch: int
    images_per_s: Spread


@dataclass(frozen=True, slots=True)
class Report:
    """Of one artefact on one machine."""

    model: str
    provider: str
    measured: list[Measured]
    missing: dict[str, str]
    """Ways that could not be had, and why."""


def measure(
    artifact: Artifact,
    *,
    device: Device,
    threads: int,
    batches: Sequence[int],
    repeats: int,
    seconds: float,
) -> Report:
    """Every way at every batch size, in another order each time.

    Raises:
        EngineError: the device cannot be had.
    """
    provider = provider_of(open_session(artifact.onnx_path, device=device, threads=threads))
    rule = artifact.manifest.image
    measured: list[Measured] = []
    missing: dict[str, str] = {}
    for batch in batches:
        shape = (batch, rule.height, rule.width, rule.channels)
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        timed: dict[str, Callable[[], int]] = {}
        wanted: Outputs | None = None
        precisions: tuple[Precision, ...] = ("float32", "float16")
        for precision in precisions:
            setup = Setup(
                artifact=artifact,
                precision=precision,
                images_nhwc=images,
                device=device,
                provider=provider,
                threads=threads,
            )
            for name, way in WAYS.items():
                title = f"{name}, {precision}"
                try:
                    once = way(setup)
                    wanted = once() if wanted is None else wanted
                    _check(once, wanted)
                # The runtime's exceptions share no base of their own, and one way that fails on a
                # machine is what this is to find out.
                except Exception as error:
                    missing[title] = str(error)
                    continue
                timed[title] = _counted(once, batch)
                if name == "engine":
                    timed[f"{title}, two at once"] = _twice(once, batch)
        rates: dict[str, list[float]] = {name: [] for name in timed}
        for repeat in range(repeats):
            for name in rotated(list(timed), repeat):
                rates[name].append(_rate(timed[name], seconds))
        measured += [Measured(name, batch, Spread.of(found)) for name, found in rates.items()]
    return Report(artifact.manifest.name, provider, measured, missing)


def _check(once: Pass, wanted: Outputs) -> None:
    """Raises:
    ValueError: it gives something else.
    """
    for _ in range(_WARM_UP):
        found = once()
    worst = float(np.abs(found["probabilities"] - wanted["probabilities"]).max())
    if not worst <= _TOLERANCE:
        raise ValueError(f"its probabilities differ by {worst:.2g} from the service's")


def _counted(once: Pass, batch: int) -> Callable[[], int]:
    def run() -> int:
        once()
        return batch

    return run


def _twice(once: Pass, batch: int) -> Callable[[], int]:
    pool = ThreadPoolExecutor(2)

    def run() -> int:
        for done in [pool.submit(once), pool.submit(once)]:
            done.result()
        return 2 * batch

    return run


def _rate(run: Callable[[], int], seconds: float) -> float:
    run()
    images, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        images += run()
    return images / elapsed


def render(report: Report) -> str:
    """A table for each batch size, each way beside the runtime's plain `run` in float32."""
    lines = [f"{report.model} on {report.provider}, {cpu_name()}"]
    for batch in dict.fromkeys(each.batch for each in report.measured):
        here = {each.way: each.images_per_s for each in report.measured if each.batch == batch}
        peer = here.get("run, float32")
        for way, rate in here.items():
            ratio = "" if peer is None else f"{rate.median / peer.median:6.2f} of run"
            spread = f"({rate.least:,.0f} to {rate.most:,.0f})"
            lines.append(f"  batch {batch:5}  {way:28} {rate.median:12,.0f} {spread:24} {ratio}")
    lines += [f"  not here: {way}: {why}" for way, why in report.missing.items()]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m bench.passes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--models", type=Path, nargs="*", metavar="FOLDER", help="default: the zoo's")
    made.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "tensorrt"])
    made.add_argument("--threads", type=int, default=1, help="of a pass on a CPU; 0: every core")
    made.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128, 512])
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--seconds", type=float, default=0.5, help="of each way, each time")
    made.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    return made


def main() -> int:
    """Measure and print; 1 where the device cannot be had."""
    given = parser().parse_args()
    folders = given.models or [
        newest_version(ROOT / "zoo" / name) for name in ("digits", "cifar10")
    ]
    reports = []
    for folder in folders:
        try:
            report = measure(
                load_artifact(folder),
                device=given.device,
                threads=given.threads,
                batches=given.batches,
                repeats=given.repeats,
                seconds=given.seconds,
            )
        except EngineError as error:
            print(error, file=sys.stderr)
            return 1
        print(render(report), flush=True)
        reports.append(asdict(report))
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
