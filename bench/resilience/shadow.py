"""A shadow beside the active version, and how much longer the answers take."""

import argparse
import itertools
from typing import Any

import httpx

from bench.common.client import HOST, Client
from bench.common.load import Load, keep_busy, offer, run
from bench.common.report import Report
from bench.common.server import Server, free_port, limelight
from bench.common.spread import Spread, percentile
from bench.common.turns import rotated
from bench.resilience.calls import cifar_call
from bench.resilience.models import MODEL, models, publish

_MOST_P99 = 1.05  # times that without a shadow
_SHARE = 0.25  # of the peak, offered: a shadow needs idle time
_CONNECTIONS = 64  # at which the peak is measured
_QUANTILES = {"p50": 50, "p95": 95, "p99": 99}


def measure(arguments: argparse.Namespace, report: Report) -> None:
    """Offer the same load with a shadow and without, in turns."""
    admin = free_port()
    settings = {
        "LIMELIGHT_WORKERS": "2",
        "LIMELIGHT_VERSIONS": f"{MODEL}=specific:1",
        "LIMELIGHT_DEFAULT_MODEL": MODEL,
        "LIMELIGHT_ADMIN_PORT": str(admin),
    }
    found: dict[str, list[dict[str, Any]]] = {"without": [], "with": []}
    with models() as folder:
        publish(folder, 2)
        with limelight(settings | {"LIMELIGHT_MODELS": str(folder)}) as server:
            rate = _SHARE * run(_busy(server)).goodput()
            for repeat in range(max(3, arguments.repeats)):
                for name in rotated(list(found), repeat):
                    _shadow(admin, begin=name == "with")
                    load = run(_offer(server, rate, arguments.seconds))
                    found[name].append(_summary(load, server))
                    report.say(f"{name} a shadow: {found[name][-1]}")
    report.measurements["shadow"] = {"rate": rate, **found}
    judge(report, found)


def judge(report: Report, found: dict[str, list[dict[str, Any]]]) -> None:
    """Judge the latency with a shadow by that of the turn without beside it."""
    ratios = Spread.of(
        beside["p99"] / alone["p99"]
        for alone, beside in zip(found["without"], found["with"], strict=True)
    )
    report.judge(
        f"p99 with a shadow is at most {_MOST_P99} times that without",
        f"{ratios.shown()} times",
        ratios.median <= _MOST_P99,
    )
    failed = sum(each["failed"] for turns in found.values() for each in turns)
    report.judge("every prediction is answered", f"{failed} are not", not failed)
    compared = min(each["compared"] for each in found["with"])
    report.judge("the shadow compares images", f"at least {compared:,} a turn", compared > 0)
    rows = [
        (name, *(Spread.of(each[quantile] for each in turns).shown() for quantile in _QUANTILES))
        for name, turns in found.items()
    ]
    report.add_table("Predictions with and without a shadow, ms", ("", *_QUANTILES), rows)


async def _busy(server: Server) -> Load:
    calls = itertools.repeat(cifar_call())
    return await keep_busy(Client(server.port), calls, connections=_CONNECTIONS, seconds=5)


async def _offer(server: Server, rate: float, seconds: float) -> Load:
    calls = itertools.repeat(cifar_call())
    return await offer(Client(server.port), calls, rate=rate, count=round(rate * seconds))


def _shadow(admin: int, *, begin: bool) -> None:
    """Begin a shadow of version 2, or only serve that version, so that the memory is the same."""
    url = f"http://{HOST}:{admin}/models/{MODEL}"
    with httpx.Client(timeout=120) as client:
        client.put(f"{url}/labels/other", params={"version": "2"}).raise_for_status()
        if begin:
            query = {"kind": "shadow", "version": "2"}
            client.put(f"{url}/rollout", params=query).raise_for_status()
        else:
            client.delete(f"{url}/rollout")  # 404 if there is none


def _summary(load: Load, server: Server) -> dict[str, Any]:
    with httpx.Client(base_url=f"http://{HOST}:{server.port}", timeout=10) as client:
        rollout = client.get(f"/models/{MODEL}").json()["rollout"] or {}
    return {
        **{name: percentile(load.latencies_s(), at) * 1e3 for name, at in _QUANTILES.items()},
        "failed": sum(each.result != "200" for each in load.outcomes),
        **{name: rollout.get(name, 0) for name in ("compared", "shed")},
    }
