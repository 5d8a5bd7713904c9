"""Three times more than the service can do: what it refuses, and what that costs the rest."""

import argparse
import itertools
import math
import random
import statistics
from collections import Counter
from collections.abc import Iterator
from typing import Any

from bench.steadiness.calls import cifar_call, cifar_png
from bench.steadiness.client import Call
from bench.steadiness.load import Load, percentile
from bench.steadiness.profile import profiled
from bench.steadiness.report import Report, spread
from bench.steadiness.service import Service, running
from bench.steadiness.step import Step, busy, offered
from bench.steadiness.wrk import wrk

_LEAST_GOODPUT = 0.9  # of the peak
_MOST_P99 = 2.0  # times the p99 at 80 %
_CONNECTIONS = 64  # at which the peak is measured


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this command."""
    parser.add_argument("--seconds", type=float, default=15, help="of each step")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--factor", type=float, default=3.0, help="of the peak, offered")
    parser.add_argument("--timeout-ms", type=int, help="default: 1.5 times the p99 at 80 %%")


def measure(arguments: argparse.Namespace, report: Report) -> None:
    """Peak, 80 % of it and an overload, alternating; then an overload with explanations in it."""
    with running() as [service]:
        wrk(service.port, "/predict?model=cifar10", cifar_png(), connections=16, seconds=3)
        repeats = [_repeat(service, arguments, report) for _ in range(arguments.repeats)]
        report.measurements["repeats"] = repeats
        goodputs = [each["goodput"] / each["peak"] for each in repeats]
        ratios = [each["p99_overload_ms"] / each["p99_80_ms"] for each in repeats]
        report.judge(
            f"goodput at {arguments.factor:g} times the peak is at least 90 % of it",
            f"{spread([100 * share for share in goodputs], 1)} %",
            statistics.median(goodputs) >= _LEAST_GOODPUT,
        )
        report.judge(
            "p99 of what is accepted then is at most 2 times the p99 at 80 % load",
            f"{spread(ratios, 2)} times",
            statistics.median(ratios) <= _MOST_P99,
        )
        stray = sum((Counter(each["strays"]) for each in repeats), Counter())
        report.judge("every refusal is a 503 with Retry-After", f"others: {dict(stray)}", not stray)
        peak = statistics.median(each["peak"] for each in repeats)
        timeout_ms = round(statistics.median(each["timeout_ms"] for each in repeats))
        _mixed(service, arguments, report, rate=peak * arguments.factor, timeout_ms=timeout_ms)
        _profile(service, arguments, report, rate=peak * arguments.factor, timeout_ms=timeout_ms)


def _repeat(service: Service, arguments: argparse.Namespace, report: Report) -> dict[str, Any]:
    seconds = arguments.seconds
    by_wrk = wrk(
        service.port,
        "/predict?model=cifar10",
        cifar_png(),
        connections=_CONNECTIONS,
        seconds=seconds,
    )
    calls = itertools.repeat(cifar_call())
    peak_step = busy(service, calls, connections=_CONNECTIONS, seconds=seconds)
    peak = peak_step.load.goodput()
    moderate_step = offered(service, calls, rate=0.8 * peak, seconds=seconds)
    moderate = moderate_step.load
    p99_80_s = percentile(moderate.latencies_s(), 99)
    # What a client asks for is less than what it will wait for: its own way takes time as well.
    timeout_ms = arguments.timeout_ms or math.ceil(1.5e3 * p99_80_s)
    calls = itertools.repeat(cifar_call(timeout_ms=timeout_ms))
    heavy_step = offered(service, calls, rate=arguments.factor * peak, seconds=seconds)
    heavy = heavy_step.load
    steps = {"peak": peak_step, "80 %": moderate_step, "overload": heavy_step}
    strays = {
        result: count
        for result, count in heavy.count().items()
        if result != "200" and not result.startswith("503 ")
    }
    if missing := sum(
        each.result.startswith("503") and not each.retry_after for each in heavy.outcomes
    ):
        strays["503 without Retry-After"] = missing
    found = {
        "peak_wrk": by_wrk.requests_a_second,
        "peak": peak,
        "p99_80_ms": p99_80_s * 1e3,
        "p50_80_ms": percentile(moderate.latencies_s(), 50) * 1e3,
        "answers_80": dict(moderate.count()),
        "timeout_ms": timeout_ms,
        "offered": len(heavy.outcomes) / seconds,
        "goodput": heavy.goodput(2 * p99_80_s),
        "p99_overload_ms": percentile(heavy.latencies_s(), 99) * 1e3,
        "p50_overload_ms": percentile(heavy.latencies_s(), 50) * 1e3,
        "answers_overload": dict(heavy.count()),
        "refusal_p50_ms": _refusal_ms(heavy),
        "refusal_cpu_us": refusal_cpu_us(peak_step, heavy_step),
        "strays": strays,
        "cost": {name: step.cost() for name, step in steps.items()},
    }
    report.say(
        f"peak {found['peak']:.0f}/s (wrk: {found['peak_wrk']:.0f}/s); at 80 % p50 "
        f"{found['p50_80_ms']:.1f} ms, p99 {found['p99_80_ms']:.1f} ms, {found['answers_80']}"
    )
    report.say(
        f"  {found['offered']:.0f}/s offered with a deadline of {timeout_ms} ms: goodput "
        f"{found['goodput']:.0f}/s, p50 {found['p50_overload_ms']:.1f} ms, "
        f"p99 {found['p99_overload_ms']:.1f} ms; {found['answers_overload']}; a refusal takes "
        f"{found['refusal_cpu_us']:.0f} µs of the service"
    )
    for name, step in steps.items():
        report.say(f"  {name}: {step.described()}")
    return found


def _mixed(
    service: Service,
    arguments: argparse.Namespace,
    report: Report,
    *,
    rate: float,
    timeout_ms: int,
) -> None:
    """One request in five is an explanation: which of the two are refused?"""

    def calls() -> Iterator[Call]:
        rng = random.Random(0)  # noqa: S311  # no secret
        predict = cifar_call(timeout_ms=timeout_ms)
        explain = cifar_call("/explain", timeout_ms=timeout_ms)
        while True:
            yield explain if rng.random() < 0.2 else predict

    load = offered(service, calls(), rate=rate, seconds=arguments.seconds).load
    shares = {}
    for route in ("/predict", "/explain"):
        results = load.count(route)
        refused = sum(count for result, count in results.items() if result.startswith("503"))
        shares[route] = refused / max(1, results.total())
        report.say(f"  mixed, {route}: {shares[route]:.1%} refused, {dict(results)}")
    report.measurements["mixed"] = {
        "refused": shares,
        "answers": {route: dict(load.count(route)) for route in shares},
    }
    report.judge(
        "explanations are shed before predictions",
        f"{shares['/explain']:.1%} of explanations and {shares['/predict']:.1%} of predictions",
        shares["/explain"] > shares["/predict"],
    )


def _profile(
    service: Service,
    arguments: argparse.Namespace,
    report: Report,
    *,
    rate: float,
    timeout_ms: int,
) -> None:
    """What the service's cores do at the peak, and what under overload."""
    pids, seconds, found = service.workers(), arguments.seconds, {}
    with profiled(pids) as at_peak:
        calls = itertools.repeat(cifar_call())
        peak = busy(service, calls, connections=_CONNECTIONS, seconds=seconds)
    with profiled(pids) as in_overload:
        calls = itertools.repeat(cifar_call(timeout_ms=timeout_ms))
        overload = offered(service, calls, rate=rate, seconds=seconds)
    for name, step, shares in (("peak", peak, at_peak), ("overload", overload, in_overload)):
        if not shares:
            report.say("  no profile: perf is not installed, or not let near the counters")
            return
        cores = {kind: share * step.service_cores for kind, share in sorted(shares.items())}
        found[name] = {"answers": dict(step.load.count()), "cores": cores} | step.cost()
        by_kind = ", ".join(f"{kind} {share:.2f}" for kind, share in cores.items())
        report.say(f"  {name}: of the service's {step.service_cores:.2f} cores {by_kind}")
    report.measurements["profile"] = found


def _refusal_ms(load: Load) -> float:
    seconds = sorted(each.seconds for each in load.outcomes if each.result.startswith("503"))
    return percentile(seconds, 50) * 1e3


def refusal_cpu_us(peak: Step, heavy: Step) -> float:
    """CPU time of a refusal, if an accepted request takes then what it takes at the peak."""
    accepted = heavy.load.count()["200"]
    each_s = peak.service_cores * peak.load.elapsed_s / peak.load.count()["200"]
    rest_s = heavy.service_cores * heavy.load.elapsed_s - accepted * each_s
    return rest_s / max(1, len(heavy.load.outcomes) - accepted) * 1e6
