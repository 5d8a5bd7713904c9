"""The serving benchmark: Limelight, other servers with the same networks, and ONNX Runtime alone.

`python -m bench.serve` makes the peers' environments (`.venv-peers`) and measures everything;
`--quick` is a look at whether it all runs. One server is alive at a time, and every repeat visits
them in another order. Memory, start-up and throughput come from the same run, and the tables of
`docs/performance.md` from its JSON: `python -m bench.serve --render FILE`.
"""

import argparse
import math
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bench.serving.ceiling import CeilingError
from bench.serving.contestants import ENTRIES
from bench.serving.load import LoadError
from bench.serving.plan import CEILING, Plan, run
from bench.serving.plot import render_svg
from bench.serving.report import render_markdown, render_text
from bench.serving.results import Results
from bench.serving.workloads import WORKLOADS

NAMES = (*(entry.name for entry in ENTRIES), CEILING)


def plan_of(arguments: argparse.Namespace) -> Plan:
    """What the command line asks for."""
    quick, only = arguments.quick, arguments.only
    workloads = [WORKLOADS[name] for name in arguments.workloads]
    asked = [
        replace(
            entry,
            contestants=tuple(
                contestant
                for contestant in entry.contestants
                if any(contestant.fits(workload) for workload in workloads)
            ),
        )
        for entry in ENTRIES
        if entry.name in only
    ]
    return Plan(
        entries=[entry for entry in asked if entry.contestants],
        ceiling=CEILING in only,
        workloads=arguments.workloads,
        connections=[16] if quick else arguments.connections,
        repeats=1 if quick else arguments.repeats,
        seconds=1.0 if quick else arguments.seconds,
        device=arguments.device,
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m bench.serve", description=__doc__)
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--seconds", type=float, default=4.0, help="of each load, whole ones")
    made.add_argument("--connections", type=_numbers, default=[1, 16, 64, 256])
    made.add_argument("--workloads", type=_names(tuple(WORKLOADS)), default=list(WORKLOADS))
    made.add_argument("--only", type=_names(NAMES), default=list(NAMES), help=", ".join(NAMES))
    device = "where the networks run, of every server and of the runtime alone"
    made.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help=device)
    made.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    made.add_argument("--plot", type=Path, metavar="FILE", help="draw it as an SVG")
    made.add_argument("--quick", action="store_true", help="1 repeat of 1 s at 16 connections")
    render = "measure nothing: print a JSON file's tables as Markdown"
    made.add_argument("--render", type=Path, metavar="FILE", help=render)
    return made


def _numbers(text: str) -> list[int]:
    return sorted({int(part) for part in text.split(",")})


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


def main() -> int:
    """Measure or render; 0 unless nothing can be measured."""
    arguments = parser().parse_args()
    # Leave by way of every `finally`, so that no server is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # A shell's background jobs ignore it, and so would the servers that end by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if arguments.render is not None:
        results = Results.read(arguments.render)
        print(render_markdown(results), end="")
    else:
        plan = plan_of(arguments)
        minutes = math.ceil(plan.total_s / 60)
        print(f"about {minutes} minutes; let nothing else run meanwhile", flush=True)
        try:
            results = run(plan, json_file=arguments.json)
        except (LoadError, CeilingError) as error:
            print(error, file=sys.stderr)
            return 1
        if arguments.json is not None:
            results.write(arguments.json)
        print("\n" + render_text(results), end="")
    if arguments.plot is not None:
        arguments.plot.parent.mkdir(parents=True, exist_ok=True)
        arguments.plot.write_text(render_svg(results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
