"""A kill of one of two workers under load: what fails, and how soon a new one answers."""

import argparse
import asyncio
import http.client
import itertools
import time
from contextlib import closing, suppress
from typing import Any

import psutil  # type: ignore[import-untyped]

from bench.common.client import HOST, Client
from bench.common.load import keep_busy, run
from bench.common.report import Report
from bench.common.server import Server, limelight
from bench.common.spread import Spread
from bench.resilience.calls import cifar_call

_MOST_S = 5.0
_GIVE_UP_S = 30.0
_CONNECTIONS = 32
_PLACES = {
    "as it is": {},
    # In a container BentoML itself never replaces a worker.
    "in a container": {"BENTOML_CONTAINERIZED": "true"},
}


def measure(arguments: argparse.Namespace, report: Report) -> None:
    """Kill workers outside and inside of what BentoML takes for a container."""
    for place, settings in _PLACES.items():
        rows: list[dict[str, Any]] = []
        with limelight({"LIMELIGHT_WORKERS": "2", **settings}) as server:
            for _ in range(arguments.repeats):
                rows.append(run(_kill_one(server)))
                report.say(f"{place}: {rows[-1]}")
                if rows[-1]["replaced_after_s"] is None:
                    break
        report.measurements[place] = rows
        judge(report, place, rows)


def judge(report: Report, place: str, rows: list[dict[str, Any]]) -> None:
    """Compare the kills in one place with the targets."""
    times, failed, in_flight = (
        [row[key] for row in rows] for key in ("replaced_after_s", "failed", "in_flight")
    )
    target = f"{place}: a replacement answers within {_MOST_S:g} s"
    measured = "never" if None in times else f"{Spread.of(times).shown()} s"
    report.judge(target, measured, None not in times and max(times) <= _MOST_S)
    target = f"{place}: only requests in flight on the killed worker fail"
    measured = f"{failed} failed, {in_flight} were in flight there"
    report.judge(target, measured, all(row["failed"] <= row["in_flight"] for row in rows))


async def _kill_one(server: Server) -> dict[str, Any]:
    client, stop = Client(server.port), asyncio.Event()
    calls = itertools.repeat(cifar_call())
    load = keep_busy(client, calls, connections=_CONNECTIONS, stop=stop)
    loading = asyncio.create_task(load)
    await asyncio.sleep(2)
    workers = set(server.workers())
    # The one with more connections: with few of them the kernel may give all to one worker.
    victim = max(workers, key=lambda worker: len(client_ports(worker)))
    ports = client_ports(victim)
    victim.kill()
    killed_s = time.perf_counter()
    # No await since the kill, so that this is what the client has sent and has no answer to.
    in_flight = sum(each.call is not None and each.port in ports for each in client.connections)
    replaced_s = await asyncio.to_thread(_replaced, server, workers)
    await asyncio.sleep(1)
    stop.set()
    await loading
    failures = [each.result for each in client.outcomes if each.result != "200"]
    return {
        "in_flight": in_flight,
        "failed": len(failures),
        "failures": sorted(set(failures)),
        "answered": len(client.outcomes) - len(failures),
        "replaced_after_s": None if replaced_s is None else replaced_s - killed_s,
    }


def _replaced(server: Server, former: set[psutil.Process]) -> float | None:
    """The time at which a new worker has answered; None if none does in time.

    It is asked again and again: the other workers take new connections too.
    """
    end_s = time.perf_counter() + _GIVE_UP_S
    while time.perf_counter() < end_s:
        connection = http.client.HTTPConnection(HOST, server.port, timeout=5)
        with suppress(OSError, http.client.HTTPException), closing(connection):
            connection.request("GET", "/readyz")
            ready = connection.getresponse().status == http.client.OK
            port = connection.sock.getsockname()[1]
            new = set(server.workers()) - former
            if ready and any(port in client_ports(worker) for worker in new):
                return time.perf_counter()
        time.sleep(0.02)
    return None


def client_ports(process: psutil.Process) -> set[int]:
    """The other side's port of each established TCP connection that a process holds."""
    try:
        found = process.net_connections("tcp")
    except psutil.NoSuchProcess:
        return set()
    return {each.raddr.port for each in found if each.status == psutil.CONN_ESTABLISHED}
