"""A stop with requests in flight: who is answered, who is refused, and when.

New clients come all the while. Until the pause (LIMELIGHT_DRAIN_S) is over they are to be
answered; from then on their connections are to be refused, and never taken and then dropped.
"""

import argparse
import asyncio
import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from bench.common.client import Call, Client, Outcome, http_request
from bench.common.load import offer, run
from bench.common.report import Report
from bench.common.server import Server, limelight
from bench.resilience.calls import DIGIT_PNG, cifar_call

_IN_FLIGHT = 200
_PAUSES_S = (0.0, 1.0)
_PROBES_A_SECOND = 50.0
_MOST_S = 5.0  # from the signal to the exit, the pause not counted
_LATE_S = 2.5  # a connection whose first packet was dropped is tried again after 1 and 3 s

SIGNALS: dict[str, Callable[[int], None]] = {
    "SIGTERM": lambda pid: os.kill(pid, signal.SIGTERM),
    "SIGINT": lambda pid: os.kill(pid, signal.SIGINT),
    # A terminal sends SIGINT to the parent and its workers alike. The group is the service's own.
    "Ctrl-C": lambda pid: os.killpg(pid, signal.SIGINT),
}


def measure(arguments: argparse.Namespace, report: Report) -> None:
    """Stop a fresh service by each signal, with each pause."""
    rows = []
    for name, drain_s, _ in itertools.product(SIGNALS, _PAUSES_S, range(arguments.repeats)):
        with limelight({"LIMELIGHT_DRAIN_S": f"{drain_s:g}"}) as server:
            row = run(_stop(server, name, drain_s))
        rows.append({"signal": name, "drain_s": drain_s, **row})
        report.say(f"{name}, pause {drain_s:g} s: {row}")
    report.measurements["stops"] = rows
    for name in SIGNALS:
        judge(report, name, [row for row in rows if row["signal"] == name])


def judge(report: Report, name: str, rows: list[dict[str, Any]]) -> None:
    """Compare the stops by one signal with the targets."""
    unanswered = [_IN_FLIGHT - row["answered"] for row in rows]
    early, dropped, statuses = (
        [row[key] for row in rows] for key in ("refused_early", "dropped", "exit_status")
    )
    most_s = max(row["exit_after_s"] - row["drain_s"] for row in rows)
    target = f"{name}: every request in flight is answered"
    report.judge(target, f"{unanswered} of {_IN_FLIGHT} not", not any(unanswered))
    target = f"{name}: new clients are answered until the pause is over, then refused, not dropped"
    measured = f"{early} refused too early, {dropped} dropped"
    report.judge(target, measured, not any(early) and not any(dropped))
    report.judge(f"{name}: exit status 0", f"{statuses}", set(statuses) == {0})
    target = f"{name}: gone within {_MOST_S:g} s and the pause"
    report.judge(target, f"{most_s:.1f} s and the pause at most", most_s <= _MOST_S)


async def _stop(server: Server, name: str, drain_s: float) -> dict[str, Any]:
    client, probing = Client(server.port), Client(server.port)
    for _ in range(_IN_FLIGHT):
        client.send(cifar_call())
    # All are written; the service works at the first of them.
    while len(client.connections) < _IN_FLIGHT or not client.outcomes:
        await asyncio.sleep(0.001)
    pause_s = drain_s if name == "SIGTERM" else 0.0  # a person who presses Ctrl-C has waited
    signalled_s = time.perf_counter()
    SIGNALS[name](server.pid)
    probes = asyncio.create_task(_probe(probing, seconds=drain_s + 2))
    exit_status = await asyncio.to_thread(server.exit_status)
    exit_after_s = time.perf_counter() - signalled_s
    await client.finish()
    await probes
    results = Counter(each.result for each in client.outcomes)
    closing_s = signalled_s + pause_s
    sorted_out = Counter(sort_out(each, closing_s=closing_s) for each in probing.outcomes)
    return {
        "answered": results["200"],
        "answers": dict(results),
        "probes": dict(Counter(each.result for each in probing.outcomes)),
        "refused_early": sorted_out["refused early"],
        "dropped": sorted_out["dropped"],
        "exit_status": exit_status,
        "exit_after_s": exit_after_s,
    }


def sort_out(outcome: Outcome, *, closing_s: float) -> str:
    """Compare a new client's fate with what it should be, when the service closes at `closing_s`.

    "refused early": no connection, or a 503, before the pause was over. "dropped": a connection
    that was taken and brought no answer. "fine": anything else.
    """
    if outcome.result.startswith("not connected"):
        return "refused early" if outcome.sent_s + outcome.seconds < closing_s else "fine"
    if outcome.result.startswith("503"):
        return "refused early" if outcome.sent_s < closing_s else "fine"
    return "fine" if outcome.result == "200" else "dropped"


async def _probe(client: Client, *, seconds: float) -> None:
    """New clients at a constant rate, each on a connection of its own."""
    payload = http_request("POST", "/predict?model=digits", DIGIT_PNG, {"Connection": "close"})
    calls = itertools.repeat(Call("probe", payload))
    count = round(_PROBES_A_SECOND * seconds)
    await offer(client, calls, rate=_PROBES_A_SECOND, count=count, timeout_s=_LATE_S)
