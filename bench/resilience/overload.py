"""Three times more requests than the service can answer: the share it answers, and how soon."""

import argparse
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

from bench.common.client import Call, Client
from bench.common.load import Load, keep_busy, offer, run
from bench.common.report import Report
from bench.common.server import Server, limelight
from bench.common.spread import Spread, percentile
from bench.resilience.calls import cifar_call

_LEAST_GOODPUT = 0.9  # of the peak
_MOST_P99 = 2.0  # times the p99 at 80 %
_CONNECTIONS = 64  # at which the peak is measured
_FACTOR = 3.0  # of the peak, offered


def measure(arguments: argparse.Namespace, report: Report) -> None:
    """Peak, 80 % of it and an overload, in turns; then an overload with explanations in it."""
    with limelight() as server:
        _busy(server, seconds=3)
        repeats = [_repeat(server, arguments.seconds, report) for _ in range(arguments.repeats)]
        peak = Spread.of(each["peak"] for each in repeats).median
        timeout_ms = round(Spread.of(each["timeout_ms"] for each in repeats).median)
        mixed = _offered(server, _mixed(timeout_ms), rate=_FACTOR * peak, seconds=arguments.seconds)
    report.measurements["repeats"] = repeats
    goodputs = Spread.of(each["goodput"] / each["peak"] for each in repeats)
    target = f"goodput at {_FACTOR:g} times the peak is at least 90 % of it"
    measured = goodputs.shown(lambda share: f"{share:.1%}")
    report.judge(target, measured, goodputs.median >= _LEAST_GOODPUT)
    ratios = Spread.of(each["p99_overload_ms"] / each["p99_80_ms"] for each in repeats)
    target = "p99 of what is accepted then is at most 2 times the p99 at 80 % load"
    report.judge(target, f"{ratios.shown()} times", ratios.median <= _MOST_P99)
    strays = sum((Counter(each["strays"]) for each in repeats), Counter())
    report.judge("every refusal is a 503 with Retry-After", f"others: {dict(strays)}", not strays)
    predict, explain = (refused_share(mixed, route) for route in ("/predict", "/explain"))
    measured = f"{explain:.1%} of explanations and {predict:.1%} of predictions"
    report.judge("explanations are shed before predictions", measured, explain > predict)


def _repeat(server: Server, seconds: float, report: Report) -> dict[str, Any]:
    peak = _busy(server, seconds)
    calls = itertools.repeat(cifar_call())
    moderate = _offered(server, calls, rate=0.8 * peak.goodput(), seconds=seconds)
    p99_80_s = percentile(moderate.latencies_s(), 99)
    # A client asks for less than it will wait for: its own way takes time as well.
    timeout_ms = math.ceil(1.5e3 * p99_80_s)
    calls = itertools.repeat(cifar_call(timeout_ms=timeout_ms))
    heavy = _offered(server, calls, rate=_FACTOR * peak.goodput(), seconds=seconds)
    found = {
        "peak": peak.goodput(),
        "p99_80_ms": p99_80_s * 1e3,
        "timeout_ms": timeout_ms,
        "offered": len(heavy.outcomes) / seconds,
        "goodput": heavy.goodput(2 * p99_80_s),
        "p99_overload_ms": percentile(heavy.latencies_s(), 99) * 1e3,
        "answers_overload": dict(heavy.count()),
        "strays": strays(heavy),
        "client_cores": heavy.client_cores,
    }
    report.say(f"{found}")
    return found


def strays(load: Load) -> dict[str, int]:
    """Answers that are neither 200 nor a 503 that says when to come back."""
    found = Counter(
        each.result
        for each in load.outcomes
        if each.result != "200" and not (each.result.startswith("503") and each.retry_after)
    )
    return dict(found)


def refused_share(load: Load, kind: str) -> float:
    """Refused requests of one kind, as a share of its requests."""
    results = load.count(kind)
    refused = sum(count for result, count in results.items() if result.startswith("503"))
    return refused / max(1, results.total())


def _mixed(timeout_ms: int) -> Iterator[Call]:
    """One request in five is an explanation."""
    rng = random.Random(0)  # noqa: S311  # no secret
    predict = cifar_call(timeout_ms=timeout_ms)
    explain = cifar_call("/explain", timeout_ms=timeout_ms)
    while True:
        yield explain if rng.random() < 0.2 else predict


def _busy(server: Server, seconds: float) -> Load:
    client, calls = Client(server.port), itertools.repeat(cifar_call())
    return run(keep_busy(client, calls, connections=_CONNECTIONS, seconds=seconds))


def _offered(server: Server, calls: Iterator[Call], *, rate: float, seconds: float) -> Load:
    return run(offer(Client(server.port), calls, rate=rate, count=round(rate * seconds)))
