"""Throughput with metrics as a share of that without, on the cheapest model.

One worker, which fills one core, leaves the other to the client. With several workers, chance
decides how many connections each gets, and that moves throughput by more than metrics do.
"""

import argparse
import itertools
import shutil
import signal
import statistics
import subprocess
import time
from typing import Any

from bench.steadiness.calls import digit_call
from bench.steadiness.report import Report, spread
from bench.steadiness.service import Service, running
from bench.steadiness.step import Step, busy

_MOST_COST = 0.02
_WARM_UP_S = 2
_COUNTED = 10_000  # requests whose instructions are counted
_ATTACHED_S = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this command."""
    parser.add_argument("--repeats", type=int, default=8, help="each with new processes")
    parser.add_argument("--pairs", type=int, default=30, help="of measurements in a repeat")
    parser.add_argument("--seconds", type=float, default=1, help="of each measurement")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)


def measure(arguments: argparse.Namespace, report: Report) -> None:
    """Load the two in turn, in short steps: the machine's own moods last longer than a pair does.

    What a repeat says is the median of its pairs. The repeats lie about the true median evenly, so
    that all of eight on one side of it is a chance of 1 in 128: it is between the least and the
    most of them with a confidence of 99 %.
    """
    rows = []
    for repeat in range(arguments.repeats):
        row = _round(arguments, reverse=bool(repeat % 2))
        rows.append(row)
        report.say(
            f"with metrics {row['on']['rate']:.0f}/s, without {row['off']['rate']:.0f}/s: cost "
            f"{row['cost']:+.2%}; CPU time a request {row['on']['us']:.1f} and "
            f"{row['off']['us']:.1f} µs: {row['cpu_cost']:+.2%}; others "
            f"{row['other_cores']:.2f} cores{_more_instructions(row)}"
        )
    report.measurements["repeats"] = rows
    costs = [row["cost"] for row in rows]
    cpu_cost = spread([100 * row["cpu_cost"] for row in rows], 2)
    report.judge(
        # Metrics make nothing faster: a clear gain is noise, and proves nothing.
        "metrics cost less than 2 % of throughput (and gain less, or the machine was too busy)",
        f"{spread([100 * cost for cost in costs], 2)} %; of CPU time {cpu_cost} %",
        min(costs) > -_MOST_COST and max(costs) < _MOST_COST,
    )


def _round(arguments: argparse.Namespace, *, reverse: bool) -> dict[str, Any]:
    workers = {"LIMELIGHT_WORKERS": str(arguments.workers)}
    with_metrics, without = ({"LIMELIGHT_METRICS": each, **workers} for each in ("true", "false"))
    steps: dict[str, list[Step]] = {"on": [], "off": []}
    # Both run at once, and only one is loaded: what idles costs the other nothing.
    with running(with_metrics) as [on], running(without) as [off]:
        services = {"on": on, "off": off}
        for service in services.values():
            _load(service, arguments.connections, _WARM_UP_S)
        for pair in range(arguments.pairs):
            turned = reverse != bool(pair % 2)
            for name in ("off", "on") if turned else ("on", "off"):
                steps[name].append(_load(services[name], arguments.connections, arguments.seconds))
        counted = {
            name: _instructions(service, arguments.connections)
            for name, service in services.items()
        }
    costs = [
        1 - one.load.goodput() / other.load.goodput()
        for one, other in zip(steps["on"], steps["off"], strict=True)
    ]
    found: dict[str, Any] = {name: _summary(each) for name, each in steps.items()}
    found["costs"] = costs
    found["cost"] = statistics.median(costs)
    found["cpu_cost"] = found["on"]["us"] / found["off"]["us"] - 1
    if None not in counted.values():
        found["instructions"] = counted
    found["other_cores"] = max(step.other_cores for each in steps.values() for step in each)
    return found


def _instructions(service: Service, connections: int) -> float | None:
    """What the workers execute for one request, by the processor's own count.

    It hardly depends on what else goes on, and says how much work is added; not how long it takes.
    None where there is no `perf`, or where it is not let near the counters.
    """
    if (perf := shutil.which("perf")) is None:
        return None
    pids = ",".join(map(str, service.workers()))
    counting = subprocess.Popen(
        [perf, "stat", "--field-separator", ",", "--event", "instructions", "--pid", pids],
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(_ATTACHED_S)
    calls = itertools.repeat(digit_call())
    load = busy(service, calls, connections=connections, count=_COUNTED).load
    counting.send_signal(signal.SIGINT)
    first = counting.communicate()[1].partition(",")[0]
    return float(first) / len(load.outcomes) if first.isdecimal() else None


def _load(service: Service, connections: int, seconds: float) -> Step:
    calls = itertools.repeat(digit_call())
    step = busy(service, calls, connections=connections, seconds=seconds)
    if set(step.load.count()) != {"200"}:
        raise RuntimeError(f"requests failed: {dict(step.load.count())}")
    return step


def _more_instructions(row: dict[str, Any]) -> str:
    counted = row.get("instructions")
    if counted is None:
        return ""
    return f"; instructions {counted['on'] / counted['off'] - 1:+.2%}"


def _summary(steps: list[Step]) -> dict[str, float]:
    """Answers a second, and the service's CPU time for one in microseconds."""
    rate = statistics.fmean(step.load.goodput() for step in steps)
    cores = statistics.fmean(step.service_cores for step in steps)
    return {"rate": rate, "us": 1e6 * cores / rate}
