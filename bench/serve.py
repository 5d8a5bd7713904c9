"""The serving benchmark: Limelight, other servers with the same networks, and ONNX Runtime alone.

`python -m bench.serve` makes the peers' environments (`.venv-peers`) and measures everything;
`--quick` is a look at whether it all runs. One server is alive at a time, and every repeat visits
them in another order. Memory, start-up and throughput come from the same run. The load generator
shares the cores with the server; ONNX Runtime alone has them to itself.
"""

import argparse
import signal
import sys
from dataclasses import asdict
from itertools import product
from pathlib import Path

from bench.common.report import Report
from bench.common.server import ServerError
from bench.common.turns import rotated
from bench.serving import ceiling
from bench.serving.contestants import ENTRIES
from bench.serving.environments import Environment, NotInstallableError, prepare
from bench.serving.measuring import Results, visit
from bench.serving.summary import add_to
from bench.serving.workloads import WORKLOADS

CEILING = "ceiling"
NAMES = (*(entry.name for entry in ENTRIES), CEILING)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m bench.serve", description=__doc__)
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--seconds", type=float, default=4.0, help="of each load")
    made.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64, 256])
    made.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    made.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    device = "where the networks run, of every server and of the runtime alone"
    made.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help=device)
    made.add_argument("--to", type=Path, default=Path("build"), help="folder of the report")
    made.add_argument("--quick", action="store_true", help="1 repeat of 1 s at 16 connections")
    return made


def run(given: argparse.Namespace) -> Results:
    """Measure; a server that fails to install or to run is reported with the reason.

    Raises:
        BrokenProcessPool: the device cannot be had.
    """
    results, entries = Results(), {entry.name: entry for entry in ENTRIES}
    own = Environment(Path(sys.executable))
    workloads = [WORKLOADS[name] for name in given.workloads]
    models = list(dict.fromkeys(workload.model for workload in workloads))
    for repeat, model in product(range(given.repeats), models):
        for name in rotated(given.only, repeat):
            print(f"repeat {repeat + 1} of {given.repeats}: {name}, {model}", flush=True)
            if name == CEILING:
                results.rates += ceiling.measure(
                    model, seconds=given.seconds / 2, device=given.device
                )
                continue
            environment = entries[name].environment
            try:
                visit(
                    entries[name],
                    own if environment is None else prepare(environment, device=given.device),
                    [workload for workload in workloads if workload.model == model],
                    results,
                    connections=given.connections,
                    seconds=given.seconds,
                    repeat=repeat,
                    device=given.device,
                )
            except (NotInstallableError, ServerError) as error:
                results.failures[name] = " ".join(str(error).split())[:300]
                print(f"  {name} fails: {error}", file=sys.stderr, flush=True)
    return results


def main() -> int:
    """Measure, print and write."""
    arguments = parser().parse_args()
    # Leave by way of every `finally`, so that no server is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # A shell's background jobs ignore it, and so would the servers that end by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if arguments.quick:
        arguments.repeats, arguments.seconds, arguments.connections = 1, 1.0, [16]
    settings = {name: str(value) for name, value in vars(arguments).items()}
    report = Report("serve", settings, gpu=arguments.device == "cuda")
    results = run(arguments)
    report.measurements = asdict(results)
    add_to(report, results)
    report.finish(arguments.to)
    return 0


if __name__ == "__main__":
    sys.exit(main())
