"""Ways to run a forward pass, beside each other: `python -m bench.passes`.

The service's own (`engine`), ONNX Runtime's plain `run`, the same with inputs and outputs bound
once (`bound`), from and to page-locked memory (`pinned`, which is what the service does on a GPU),
and as a CUDA graph (`graph`); of the float32 graph and, where the artefact has one, of the float16
one; and the engine from two threads at once. Every way has to give what the engine gives before it
is timed. What cannot be had is said, with why: without a GPU, the page-locked memory and the graph.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bench.common import ROOT
from bench.common.report import Report
from bench.common.spread import Spread
from bench.common.turns import take_turns
from limelight.artifact.golden import read_golden
from limelight.artifact.store import Artifact, load_artifact, newest_version
from limelight.runtime import cuda as gpu
from limelight.runtime import onnx_session as sessions
from limelight.runtime.engine import Engine
from limelight.runtime.io_binding import Allocate, IoBinding
from limelight.runtime.onnx_session import Device, EngineError, Precision, Provider
from limelight.runtime.sessions import Sessions

OUTPUTS = ("logits", "probabilities", "ood_score")
"""The outputs that a prediction reads."""
# Of a probability, for the golden samples; float16 and int8 need most of it.
_TOLERANCE: dict[Precision, float] = {"float32": 1e-3, "float16": 0.02, "int8": 0.1}
_WARM_UP = 3  # passes; the first captures a CUDA graph

Outputs = dict[str, NDArray[np.float32]]
Pass = Callable[[], Outputs]
"""From images in ordinary memory to outputs in ordinary memory, whatever lies between."""


class NotHereError(Exception):
    """No such way on this machine, or for this artefact."""


@dataclass(frozen=True, slots=True)
class Setup:
    """A graph, images and a device for one way."""

    artifact: Artifact
    precision: Precision
    images_nhwc: NDArray[np.uint8]
    device: Device
    provider: Provider
    threads: int

    @property
    def file(self) -> str:
        """The graph of that precision; NotHereError where there is none."""
        manifest = self.artifact.manifest
        if self.precision == "int8" and self.provider != "CPU":
            raise NotHereError("int8 graphs are for a CPU")
        files: dict[Precision, str | None] = {
            "float32": manifest.onnx_file,
            "float16": manifest.fp16_file,
            "int8": manifest.int8_file,
        }
        if (file := files[self.precision]) is None:
            option = {"float16": "--fp16", "int8": "--int8"}[self.precision]
            raise NotHereError(f"it has no {self.precision} graph: export it with {option}")
        return file

    def session(self) -> ort.InferenceSession:
        """A session as the service opens it."""
        graph = self.artifact.graph(self.file)
        return sessions.open_session(graph, device=self.device, threads=self.threads)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each output for one image."""
        found = {tensor.name: tensor.shape[1:] for tensor in self.artifact.manifest.outputs}
        return {name: tuple(int(size) for size in found[name]) for name in OUTPUTS}


def engine(setup: Setup) -> Pass:
    """The service's own way."""
    device, threads, precision = setup.device, setup.threads, setup.precision
    made = Engine(setup.artifact, device=device, threads=threads, precision=precision)
    return lambda: made.run(setup.images_nhwc, OUTPUTS)


def plain(setup: Setup) -> Pass:
    """The runtime's own way: it makes room for inputs and outputs in each forward pass."""
    session, feed = setup.session(), {"images": setup.images_nhwc}
    return lambda: dict(zip(OUTPUTS, session.run(OUTPUTS, feed), strict=True))


def bound(setup: Setup, allocate: Allocate = np.empty) -> Pass:
    """Runs into and out of arrays that stay where they are."""
    io_binding = IoBinding(
        Sessions(setup.session),
        image_shape=setup.images_nhwc.shape[1:],
        output_shapes=setup.shapes(),
        device="cpu" if setup.provider == "CPU" else "cuda",
        allocate=allocate,
    )

    def run() -> Outputs:
        results = io_binding.run(setup.images_nhwc, OUTPUTS)
        if results is None:
            raise NotHereError("buffers of this size need more memory than they may have")
        return dict(zip(OUTPUTS, results, strict=True))

    return run


def pinned(setup: Setup) -> Pass:
    """The same in memory that a GPU can reach by itself."""
    if setup.provider == "CPU":
        raise NotHereError("page-locked memory is for a GPU")
    return bound(setup, gpu.page_locked)


def graph(setup: Setup) -> Pass:
    """Captured once and replayed: the GPU is told of all of a pass at once."""
    if setup.provider != "CUDA":
        raise NotHereError("CUDA graphs are for a GPU")
    options = {**sessions.CUDA_OPTIONS, "enable_cuda_graph": "1"}
    session = ort.InferenceSession(
        setup.artifact.read(setup.file),
        providers=[("CUDAExecutionProvider", options), "CPUExecutionProvider"],
    )
    binding = session.io_binding()
    given = ort.OrtValue.ortvalue_from_shape_and_type(setup.images_nhwc.shape, np.uint8, "cuda", 0)
    binding.bind_ortvalue_input("images", given)
    results, batch = {}, len(setup.images_nhwc)
    for name, one in setup.shapes().items():
        shape = (batch, *one)
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
    "engine": engine, "run": plain, "bound": bound, "pinned": pinned, "graph": graph,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measured:
    """Images a second by one way at one batch size, over the repeats."""

    way: str
    batch: int
    images_per_s: Spread


@dataclass(frozen=True, slots=True)
class Comparison:
    """The ways of one artefact on one machine."""

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
) -> Comparison:
    """Every way at every batch size, in another order each time.

    Raises:
        EngineError: the device cannot be had.
    """
    session = sessions.open_session(
        artifact.graph(artifact.manifest.onnx_file), device=device, threads=threads
    )
    provider = sessions.provider_of(session)
    rule, measured, missing = artifact.manifest.image, list[Measured](), dict[str, str]()
    precisions: tuple[Precision, ...] = ("float32", "float16", "int8")
    golden = read_golden(artifact)
    for batch in batches:
        shape = (batch, rule.height, rule.width, rule.channels)
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        if golden is not None:
            images = np.resize(golden.images, shape)
        calls: dict[str, Callable[[], object]] = {}
        wanted: Outputs | None = None
        for precision, (name, way) in product(precisions, WAYS.items()):
            title = f"{name}, {precision}"
            try:
                once = way(Setup(artifact, precision, images, device, provider, threads))
                wanted = once() if wanted is None else wanted
                _check(once, wanted, _TOLERANCE[precision])
            # The runtime's exceptions share no base of their own, and one way that fails on a
            # machine is what this is to find out.
            except Exception as error:
                missing[title] = str(error)
                continue
            calls[title] = once
            if name == "engine":
                calls[f"{title}, two at once"] = partial(_twice, ThreadPoolExecutor(2), once)
        for title, times in take_turns(calls, repeats=repeats, seconds=seconds).items():
            images_a_call = batch * (2 if title.endswith("two at once") else 1)
            rates = Spread.of(images_a_call / each_s for each_s in times)
            measured.append(Measured(title, batch, rates))
    return Comparison(artifact.manifest.name, provider, measured, missing)


def _check(once: Pass, wanted: Outputs, tolerance: float) -> None:
    """Run it some times; ValueError where its probabilities differ by more."""
    for _ in range(_WARM_UP):
        found = once()
    worst = float(np.abs(found["probabilities"] - wanted["probabilities"]).max())
    if not worst <= tolerance:
        raise ValueError(f"its probabilities differ by {worst:.2g} from the service's")


def _twice(pool: ThreadPoolExecutor, once: Pass) -> None:
    for done in [pool.submit(once), pool.submit(once)]:
        done.result()


def add_to(report: Report, found: Comparison) -> None:
    """Add a table, each way beside the runtime's plain `run` in float32, and what is missing."""
    measured = {(each.way, each.batch): each.images_per_s for each in found.measured}
    rows = []
    for (way, batch), rate in measured.items():
        peer = measured.get(("run, float32", batch))
        ratio = f"{rate.median / peer.median:.2f}" if peer else "–"
        rows.append((way, str(batch), rate.shown(), ratio))
    title = f"{found.model}, forward passes on {found.provider}"
    report.add_table(title, ("way", "batch", "images/s", "× run, float32"), rows)
    report.tables += [f"Not here: {way}: {why}\n" for way, why in found.missing.items()]
    report.measurements[found.model] = asdict(found)


def main() -> int:
    """Measure, print and write; 1 where the device cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m bench.passes", description=__doc__)
    models = [newest_version(ROOT / "zoo" / name) for name in ("digits", "cifar10")]
    parser.add_argument("--models", type=Path, nargs="*", metavar="FOLDER", default=models)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "tensorrt"])
    parser.add_argument("--threads", type=int, default=1, help="on a CPU; 0: every core")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128, 512])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each way, each time")
    parser.add_argument("--to", type=Path, default=Path("build"), help="folder of the report")
    given = vars(parser.parse_args())
    to, folders = given.pop("to"), given.pop("models")
    report = Report("passes", dict(given), gpu=given["device"] in ("cuda", "tensorrt"))
    for folder in folders:
        try:
            add_to(report, measure(load_artifact(folder), **given))
        except EngineError as error:
            print(error, file=sys.stderr)
            return 1
    return report.finish(to)


if __name__ == "__main__":
    sys.exit(main())
