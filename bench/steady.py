"""How steady the service is under pressure, in numbers: `python -m bench.steady COMMAND`.

Each command starts what it needs (`bentoml serve`, nginx) on free ports of loopback, prints what
it measured and whether the aims were reached, writes JSON, and fails where one was missed. The
load generator shares the machine with the service, and says what it cost. Linux only;
`overload` needs wrk, `rolling` nginx.
"""

import argparse
import signal
import sys
from pathlib import Path
from typing import Protocol

from bench.steadiness import drain, gone, kill, memory, metrics_cost, overload, rolling
from bench.steadiness.report import Report


class Command(Protocol):
    """A module that measures one thing; the first line of its docstring says what."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def measure(self, arguments: argparse.Namespace, report: Report) -> None: ...


COMMANDS: dict[str, Command] = {
    "overload": overload,
    "rolling": rolling,
    "kill": kill,
    "memory": memory,
    "gone": gone,
    "drain": drain,
    "metrics-cost": metrics_cost,
}


def main() -> int:
    """Run the commands asked for; 0 where every aim was reached."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", type=Path, default=Path("build"), help="folder for JSON")
    subparsers = parser.add_subparsers(dest="command", required=True)
    subparsers.add_parser("all", parents=[shared], help="Every command, with its defaults.")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, parents=[shared], help=_purpose(command), description=_purpose(command)
        )
        command.add_arguments(subparser)
    arguments = parser.parse_args()
    # As at Ctrl-C, the services are stopped before this ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if arguments.command != "all":
        return run(arguments.command, arguments)
    folder = ["--json", str(arguments.json)]
    statuses = [run(name, parser.parse_args([name, *folder])) for name in COMMANDS]
    return max(statuses)


def run(name: str, arguments: argparse.Namespace) -> int:
    """Run one command and write its report; 0 where every aim was reached."""
    settings = {
        key: value for key, value in vars(arguments).items() if key not in ("command", "json")
    }
    report = Report(name, settings)
    report.say(f"== {name}: {_purpose(COMMANDS[name])}")
    COMMANDS[name].measure(arguments, report)
    return report.finish(arguments.json)


def _purpose(command: Command) -> str:
    return (command.__doc__ or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
