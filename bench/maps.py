"""What a map costs, ours beside torchcam's and pytorch-grad-cam's, of the same network.

`python -m bench.maps` times passes without a map, with the map of the winner and with the maps of
every class, and those methods that mask the image; on one thread and on all, one image and 64, the
ways of one table in turns. The peers run in PyTorch, as their documentation shows them, and the
network is there out of the same artefact. `--quick` is a look at whether it all runs: its figures
mean nothing.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.explaining.maps_report import Report, Timing, render
from bench.explaining.masks import ways_of_masks
from bench.explaining.subject import EXAMPLES, Subject, Way
from bench.explaining.timing import take_turns, torch_threads
from bench.explaining.ways import ways_of_one_pass
from bench.serving.machine import cpu_name

BATCHES = (1, 64)
QUICK_BATCHES = (1, 2)
_PACKAGES = ("onnxruntime-gpu", "torch", "torchcam", "grad-cam")


def measure(
    models: Sequence[str], *, batches: Sequence[int], repeats: int, seconds: float
) -> Report:
    """Every model, on one thread and on all that this process may use, with every batch.

    Raises:
        NotTheSameError: torch and ONNX Runtime do not run the same network.
    """
    cores = len(os.sched_getaffinity(0))
    timings: list[Timing] = []

    def turns(ways: Sequence[Way], model: str, threads: int, batch: int, *, masks: bool) -> None:
        times = take_turns([way.run for way in ways], repeats=repeats, seconds=seconds)
        for way, ms in zip(ways, times, strict=True):
            timings.append(
                Timing(
                    model=model,
                    threads=threads,
                    batch=batch,
                    masks=masks,
                    way=way.name,
                    runtime=way.runtime,
                    maps=way.maps,
                    images=way.images,
                    ms=ms,
                )
            )
        print(f"{model}, {threads} threads, batch {batch}: {len(ways)} ways", flush=True)

    for model in models:
        for threads in sorted({1, cores}):
            with torch_threads(threads):
                for batch in batches:
                    subject = Subject(model, batch=batch, threads=threads)
                    turns(ways_of_one_pass(subject), model, threads, batch, masks=False)
                subject = Subject(model, batch=1, threads=threads)
                turns(ways_of_masks(subject), model, threads, 1, masks=True)
    return Report(
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        processor=cpu_name(),
        cores=cores,
        versions={package: version(package) for package in _PACKAGES},
        repeats=repeats,
        seconds=seconds,
        timings=timings,
    )


def main() -> int:
    """Measure or render, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench.maps", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(EXAMPLES), default=list(EXAMPLES))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each timing")
    parser.add_argument("--to", type=Path, default=Path("build"), help="folder of the tables")
    parser.add_argument("--quick", action="store_true", help="1 repeat of 1 call, small batches")
    render_help = "measure nothing: print a JSON file's tables as Markdown"
    parser.add_argument("--render", type=Path, metavar="FILE", help=render_help)
    arguments = parser.parse_args()
    if arguments.render is not None:
        print(render(Report.read(arguments.render)), end="")
        return 0
    quick = arguments.quick
    report = measure(
        arguments.models,
        batches=QUICK_BATCHES if quick else BATCHES,
        repeats=1 if quick else arguments.repeats,
        seconds=0 if quick else arguments.seconds,
    )
    print("\n" + render(report), end="")
    report.write(arguments.to)
    return 0


if __name__ == "__main__":
    sys.exit(main())
