"""Resilience: overload, fairness, drain, a killed worker, new versions, a shadow; `soak` if named.

`python -m bench.resilience` starts what it needs on free ports of loopback, says what it measured
and whether the targets were reached, writes that into build/, and fails where one was missed. The
client shares the machine with the service, and says what it cost. Linux only.
"""

import argparse
import signal
import sys
from pathlib import Path

from bench.common.report import Report
from bench.resilience import drain, fairness, kill, overload, shadow, soak, swap

MEASURES = {
    "overload": overload.measure,
    "fairness": fairness.measure,
    "drain": drain.measure,
    "kill": kill.measure,
    "swap": swap.measure,
    "shadow": shadow.measure,
    "soak": soak.measure,
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m bench.resilience", description=__doc__)
    made.add_argument("parts", nargs="*", choices=list(MEASURES), help="without any: all but soak")
    made.add_argument("--to", type=Path, default=Path("build"), help="folder of the reports")
    made.add_argument(
        "--repeats", type=int, default=3, help="of overload, floods, stops, kills and shadow"
    )
    made.add_argument(
        "--seconds", type=float, default=15, help="of each step of overload, fairness, shadow"
    )
    made.add_argument("--requests", type=int, default=100_000, help="during swap, at least")
    made.add_argument("--activations", type=int, default=50, help="of versions, in swap")
    made.add_argument("--rollbacks", type=int, default=10, help="of versions, in swap")
    made.add_argument("--minutes", type=float, default=60, help="of soak")
    return made


def main() -> int:
    """Measure; 0 where every target was reached."""
    arguments = parser().parse_args()
    # As at Ctrl-C, the services are stopped before this ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    settings = {name: str(value) for name, value in vars(arguments).items()}
    statuses = []
    for name in arguments.parts or [name for name in MEASURES if name != "soak"]:
        report = Report(f"resilience-{name}", settings)
        MEASURES[name](arguments, report)
        statuses.append(report.finish(arguments.to))
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
