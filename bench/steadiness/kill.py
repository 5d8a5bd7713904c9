"""One of two workers is killed under load: what fails, and how soon a new one answers."""

import argparse
import asyncio
import http.client
import itertools
import os
import signal
import time
from collections import Counter
from typing import Any

from bench.steadiness import kernel
from bench.steadiness.calls import cifar_call
from bench.steadiness.client import HOST, Client, Connection, Outcome
from bench.steadiness.load import keep_busy, run
from bench.steadiness.report import Report, spread
from bench.steadiness.service import Service, running

_MOST_S = 5.0
_GIVE_UP_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this command."""
    parser.add_argument("--times", type=int, default=5, help="in each environment")
    parser.add_argument("--connections", type=int, default=32)


def measure(arguments: argparse.Namespace, report: Report) -> None:
    """Kill workers outside and inside of what BentoML takes for a container."""
    for place, settings in (
        ("as it is", {}),
        # In a container BentoML itself never replaces a worker.
        ("BENTOML_CONTAINERIZED=true", {"BENTOML_CONTAINERIZED": "true"}),
    ):
        with running({"LIMELIGHT_WORKERS": "2", **settings}) as [service]:
            rows: list[dict[str, Any]] = []
            for _ in range(arguments.times):
                rows.append(run(_kill_one(service, arguments.connections)))
                report.say(f"{place}: {rows[-1]}")
                if rows[-1]["replaced_after_s"] is None:
                    break
        report.measurements[place] = rows
        times = [row["replaced_after_s"] for row in rows]
        report.judge(
            f"{place}: a replacement answers within {_MOST_S:g} s",
            "never" if None in times else f"{spread(times, 1)} s",
            None not in times and max(times) <= _MOST_S,
        )
        report.judge(
            f"{place}: only requests in flight on the killed worker fail",
            f"{[row['failed'] for row in rows]} failed, {[row['in_flight'] for row in rows]} were "
            f"in flight there, {[row['failed_elsewhere'] for row in rows]} failed elsewhere",
            all(row["failed"] <= row["in_flight"] for row in rows)
            and not any(row["failed_elsewhere"] for row in rows),
        )


class _Watched(Client):
    """Remembers on which connections requests failed."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.failed: list[Connection | None] = []

    def finished(self, outcome: Outcome, connection: Connection | None) -> None:
        if outcome.result != "200":
            self.failed.append(connection)
        super().finished(outcome, connection)


async def _kill_one(service: Service, connections: int) -> dict[str, Any]:
    client, stop = _Watched(service.port), asyncio.Event()
    calls = itertools.repeat(cifar_call())
    load_task = asyncio.create_task(keep_busy(client, calls, connections=connections, stop=stop))
    await asyncio.sleep(2)
    workers = service.workers()
    # The one with more connections: with few of them the kernel may give all to one worker.
    victim = max(workers, key=lambda pid: len(kernel.client_ports(pid)))
    ports = kernel.client_ports(victim)
    os.kill(victim, signal.SIGKILL)
    killed_s = time.perf_counter()
    # No await since the kill, so that this is what the client has sent and has no answer to.
    on_victim = {each for each in client.connections if each.port in ports}
    in_flight = sum(each.call is not None for each in on_victim)
    before = len(client.outcomes)
    replaced_s = await asyncio.to_thread(_replaced, service, set(workers))
    await asyncio.sleep(1)
    stop.set()
    await load_task
    failures = Counter(each.result for each in client.outcomes[before:] if each.result != "200")
    elsewhere = sum(connection not in on_victim for connection in client.failed)
    return {
        "in_flight": in_flight,
        "connections_of_victim": len(on_victim),
        "failed": failures.total(),
        "failed_elsewhere": elsewhere,
        "failures": dict(failures),
        "failed_before": sum(each.result != "200" for each in client.outcomes[:before]),
        "answered_after": len(client.outcomes) - before - failures.total(),
        "replaced_after_s": None if replaced_s is None else replaced_s - killed_s,
        "workers_in_metrics": service.metrics().sum("limelight_workers"),
    }


def _replaced(service: Service, former: set[int]) -> float | None:
    """When a worker that is none of the former ones has answered; None if none does in time."""
    end_s = time.perf_counter() + _GIVE_UP_S
    while time.perf_counter() < end_s:
        for pid in set(service.workers()) - former:
            if _answers(service, pid):
                return time.perf_counter()
        time.sleep(0.02)
    return None


def _answers(service: Service, pid: int) -> bool:
    """Whether the kernel gave a new connection to this worker, and a request on it was answered.

    Asked again and again: the other workers take new connections too.
    """
    connection = http.client.HTTPConnection(HOST, service.port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        ready = connection.getresponse().status == 200
        own_port = int(connection.sock.getsockname()[1])
        return ready and own_port in kernel.client_ports(pid)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
