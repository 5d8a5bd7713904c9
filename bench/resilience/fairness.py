"""A flood of expensive explanations by one client, and what its neighbour notices."""

import argparse
import asyncio
import itertools
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.common.client import Call, Client, http_request
from bench.common.load import Load, offer, run
from bench.common.report import Report
from bench.common.server import Server, limelight
from bench.common.spread import Spread, percentile
from bench.resilience.calls import CIFAR_PNG
from limelight.api_keys import Scope, entry, hash_key, new_key

_FLOODING = 16  # clients that ask for Score-CAM, one explanation after the other
_RATE = 40.0  # predictions of the neighbour a second
_MOST_P99 = 2.0  # times the neighbour's p99 without the flood
_SETTLE_S = 2.0
_PAUSE_S = 1.0  # what Retry-After says at least; `limelight.Client` obeys it too


def measure(arguments: argparse.Namespace, report: Report) -> None:
    """The neighbour alone and beside the flood, in turns; with a key for each, and without keys."""
    flood_key, own_key = new_key(), new_key()
    with tempfile.TemporaryDirectory(prefix="limelight-bench-") as folder:
        file = Path(folder) / "keys.toml"
        names = {"flood": flood_key, "neighbour": own_key}
        both: tuple[Scope, ...] = ("predict", "explain")
        file.write_text(
            "\n".join(entry(name, hash_key(key), scopes=both) for name, key in names.items())
        )
        for kind, settings, headers in (
            ("a key for each", {"LIMELIGHT_KEYS_FILE": str(file)}, (flood_key, own_key)),
            ("no keys", {}, ("", "")),
        ):
            calls = _calls(*headers)
            with limelight(settings) as server:
                run(_beside(server, calls, seconds=3))  # to measure the seconds per image
                found = [
                    _repeat(server, calls, arguments.seconds, report)
                    for _ in range(arguments.repeats)
                ]
            report.measurements[kind] = found
            judge(report, kind, found)
            _add_table(report, kind, found)


def judge(report: Report, kind: str, found: list[dict[str, Any]]) -> None:
    """Judge the neighbour's latency beside the flood by that without, and its answers."""
    ratios = Spread.of(each["p99_flood_ms"] / each["p99_quiet_ms"] for each in found)
    target = f"{kind}: p99 beside {_FLOODING} Score-CAM clients is at most twice the quiet one"
    report.judge(target, f"{ratios.shown()} times", ratios.median <= _MOST_P99)
    failed = sum(each["failed"] for each in found)
    report.judge(f"{kind}: every prediction is answered", f"{failed} are not", not failed)


def _add_table(report: Report, kind: str, found: list[dict[str, Any]]) -> None:
    rows = [
        (name, *(Spread.of(each[f"{at}_{key}_ms"] for each in found).shown() for at in _QUANTILES))
        for name, key in (("alone", "quiet"), ("beside the flood", "flood"))
    ]
    report.add_table(f"Predictions of the neighbour, ms ({kind})", ("", *_QUANTILES), rows)


_QUANTILES = {"p50": 50, "p95": 95, "p99": 99}


def _calls(flood_key: str, own_key: str) -> tuple[Call, Call]:
    flood = http_request(
        "POST", "/explain?model=cifar10&method=scorecam", CIFAR_PNG, _headers(flood_key)
    )
    own = http_request("POST", "/predict?model=cifar10", CIFAR_PNG, _headers(own_key))
    return Call("explain", flood), Call("predict", own)


def _headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _repeat(
    server: Server, calls: tuple[Call, Call], seconds: float, report: Report
) -> dict[str, Any]:
    quiet = run(_neighbour(server, calls[1], seconds))
    flood, beside = run(_beside(server, calls, seconds))
    found: dict[str, Any] = {
        f"{name}_{key}_ms": percentile(load.latencies_s(), at) * 1e3
        for key, load in (("quiet", quiet), ("flood", beside))
        for name, at in _QUANTILES.items()
    }
    found["explanations"] = flood.goodput()
    found["answers"] = {**_counted(flood), **_counted(beside)}
    found["failed"] = sum(each.result != "200" for each in (*quiet.outcomes, *beside.outcomes))
    report.say(f"{found}")
    return found


def _counted(load: Load) -> Mapping[str, int]:
    kind = load.outcomes[0].kind
    return {f"{kind} {result}": count for result, count in load.count().items()}


async def _neighbour(server: Server, call: Call, seconds: float) -> Load:
    calls, count = itertools.repeat(call), round(_RATE * seconds)
    return await offer(Client(server.port), calls, rate=_RATE, count=count)


async def _beside(server: Server, calls: tuple[Call, Call], seconds: float) -> tuple[Load, Load]:
    """The flood, and the neighbour while it lasts."""
    stop = asyncio.Event()
    flood = asyncio.create_task(_flood(server, calls[0], stop))
    await asyncio.sleep(_SETTLE_S)
    own = await _neighbour(server, calls[1], seconds)
    stop.set()
    return await flood, own


async def _flood(server: Server, call: Call, stop: asyncio.Event) -> Load:
    """Clients that send the next request after each answer, or a pause after a rejection."""
    loop, client = asyncio.get_running_loop(), Client(server.port)
    started_s = time.perf_counter()

    def send_next() -> None:
        if not stop.is_set():
            client.send(call)

    def answered() -> None:
        pause_s = _PAUSE_S if client.outcomes[-1].retry_after else 0.0
        loop.call_later(pause_s, send_next)

    client.on_answer = answered
    for _ in range(_FLOODING):
        send_next()
    await stop.wait()
    await client.finish()
    elapsed_s = time.perf_counter() - started_s
    return Load(outcomes=tuple(client.outcomes), elapsed_s=elapsed_s, client_cpu_s=0.0)
