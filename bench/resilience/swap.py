"""New versions of a model under load: what fails, and how much longer answers take meanwhile."""

import argparse
import asyncio
import itertools
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from bench.common.client import HOST, Client
from bench.common.load import Load, keep_busy, offer, run
from bench.common.report import Report
from bench.common.server import Server, limelight
from bench.common.spread import percentile
from bench.resilience.calls import cifar_call
from bench.resilience.models import MODEL, models, publish

_MOST_P99 = 1.5  # times that without a change
_SHARE = 0.5  # of the peak, offered
_QUIET = 0.1  # of the requests, before the first change
_CONNECTIONS = 64  # at which the peak is measured
_POLL_S = 0.5
_GIVE_UP_S = 60.0
_SETTLE_S = 1.0
"""Pause after a change, which counts as part of it: the old version is still there."""
_LEAST_PER_CHANGE_S = 5.0
"""Time of a change, and of answers without one after it."""


@dataclass
class Changes:
    """Versions that came and went: start and end of each change, in seconds."""

    activations: list[tuple[float, float]] = field(default_factory=list)
    rollbacks: list[tuple[float, float]] = field(default_factory=list)

    def during(self, at: float) -> bool:
        """Return whether a change was in progress."""
        return any(start <= at <= end for start, end in (*self.activations, *self.rollbacks))


def measure(arguments: argparse.Namespace, report: Report) -> None:
    """Activate and roll back versions while requests arrive at half of the peak's rate."""
    settings = {
        "LIMELIGHT_WORKERS": "2",
        "LIMELIGHT_MODELS_POLL_S": str(_POLL_S),
        "LIMELIGHT_DEFAULT_MODEL": MODEL,
    }
    with models() as folder, limelight(settings | {"LIMELIGHT_MODELS": str(folder)}) as server:
        busy = run(_busy(server))
        rate = _SHARE * busy.goodput()
        load, changes = run(_change_under_load(server, folder, rate, arguments))
    during, between = _split(load, changes)
    report.measurements["changes"] = {
        "activations": len(changes.activations),
        "rollbacks": len(changes.rollbacks),
        "rate": rate,
        "answers": dict(load.count()),
        "seconds_per_change": [end - start for start, end in changes.activations],
    }
    failed = len(load.outcomes) - load.count()["200"]
    report.judge(
        f"no request fails over {len(changes.activations)} activations and "
        f"{len(changes.rollbacks)} rollbacks",
        f"{failed} of {len(load.outcomes):,} failed",
        failed == 0,
    )
    ratio = percentile(during, 99) / percentile(between, 99)
    report.judge(
        f"p99 during a change is at most {_MOST_P99} times that without",
        f"{ratio:.2f} times: {1e3 * percentile(during, 99):.1f} ms ({len(during):,} requests) and "
        f"{1e3 * percentile(between, 99):.1f} ms ({len(between):,})",
        ratio <= _MOST_P99,
    )


async def _busy(server: Server) -> Load:
    calls = itertools.repeat(cifar_call())
    return await keep_busy(Client(server.port), calls, connections=_CONNECTIONS, seconds=5)


async def _change_under_load(
    server: Server, folder: Path, rate: float, arguments: argparse.Namespace
) -> tuple[Load, Changes]:
    """Spread the changes evenly over the requests, after a part without any."""
    calls = itertools.repeat(cifar_call())
    client, number = Client(server.port), 1 + arguments.activations + arguments.rollbacks
    # A fast machine gets more requests than asked for, so that they last as long as the changes.
    least_s = number * _LEAST_PER_CHANGE_S / (1 - _QUIET)
    count = max(arguments.requests, round(rate * least_s))
    loading = asyncio.create_task(offer(client, calls, rate=rate, count=count))
    await asyncio.sleep(_QUIET * count / rate)
    pause_s = (1 - _QUIET) * count / rate / number
    changes = await asyncio.to_thread(_change, server, folder, pause_s, arguments)
    return await loading, changes


def _change(server: Server, folder: Path, pause_s: float, arguments: argparse.Namespace) -> Changes:
    """Publish versions, and take every few of them back, by removing the newest."""
    changes = Changes()
    every = max(1, arguments.activations // max(1, arguments.rollbacks))
    newest = max(int(each.name) for each in (folder / MODEL).iterdir())
    for number in range(1, arguments.activations + 1):
        started = time.perf_counter()
        publish(folder, newest + number)
        changes.activations.append((started, _await(server, newest + number)))
        _pause(started, pause_s)
        if number % every == 0 and len(changes.rollbacks) < arguments.rollbacks:
            started = time.perf_counter()
            shutil.rmtree(folder / MODEL / str(newest + number))
            changes.rollbacks.append((started, _await(server, newest + number - 1)))
            _pause(started, pause_s)
    return changes


def _await(server: Server, version: int) -> float:
    """Return the time at which a version has been served for a moment."""
    end = time.perf_counter() + _GIVE_UP_S
    with httpx.Client(base_url=f"http://{HOST}:{server.port}", timeout=10) as client:
        while time.perf_counter() < end:
            served = client.get(f"/models/{MODEL}").json()["version"]
            if served == str(version):
                time.sleep(_SETTLE_S)
                return time.perf_counter()
            time.sleep(0.05)
    raise TimeoutError(f"version {version} is not served after {_GIVE_UP_S:g} s")


def _pause(started: float, seconds: float) -> None:
    time.sleep(max(0.0, started + seconds - time.perf_counter()))


def _split(load: Load, changes: Changes) -> tuple[list[float], list[float]]:
    """Split the latencies of the answers by whether a change was in progress."""
    during: list[float] = []
    between: list[float] = []
    for outcome in load.outcomes:
        if outcome.result == "200":
            (during if changes.during(outcome.sent_s) else between).append(outcome.seconds)
    return sorted(during), sorted(between)
