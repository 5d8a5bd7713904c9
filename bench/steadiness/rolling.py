"""Failed requests while two replicas behind nginx are restarted, one after the other, all the time.

Each restart: SIGTERM to BentoML's parent, its exit, a new start, ready. The requests come at a
constant rate, and any answer but 200 is a failure.
"""

import argparse
import asyncio
import itertools
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from bench.steadiness.calls import digit_call
from bench.steadiness.client import Client
from bench.steadiness.load import Load, offer, percentile, run
from bench.steadiness.nginx import balancing
from bench.steadiness.report import Report
from bench.steadiness.service import Service, running


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this command."""
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--requests", type=int, default=20_000, help="each time")
    parser.add_argument("--rate", type=float, default=400, help="requests a second")
    parser.add_argument("--drain-s", type=float, default=1.0, help="LIMELIGHT_DRAIN_S")
    parser.add_argument(
        "--keepalive-ms", type=int, default=800, help="nginx keeps idle connections so long"
    )


@dataclass
class Restarts:
    """Restarts replicas in a thread until told to stop; then the one under way is finished."""

    replicas: list[Service]
    stop: threading.Event = field(default_factory=threading.Event)
    exit_statuses: list[int] = field(default_factory=list)
    ready_after_s: list[float] = field(default_factory=list)

    def run(self) -> None:
        for replica in itertools.cycle(self.replicas):
            if self.stop.is_set():
                return
            self.exit_statuses.append(replica.stop())
            self.ready_after_s.append(replica.start())


def measure(arguments: argparse.Namespace, report: Report) -> None:
    """Count what fails, and how many restarts that took."""
    settings = {"LIMELIGHT_DRAIN_S": f"{arguments.drain_s:g}"}
    with running(settings, replicas=2) as replicas:
        ports = [replica.port for replica in replicas]
        with balancing(ports, keepalive_ms=arguments.keepalive_ms) as balancer:
            rows: list[dict[str, Any]] = []
            for repetition in range(arguments.times):
                restarts = Restarts(replicas)
                load = run(_load(balancer.port, restarts, arguments))
                failed = load.count() - Counter({"200": load.count()["200"]})
                row = {
                    "requests": len(load.outcomes),
                    "failed": failed.total(),
                    "failures": dict(failed),
                    "restarts": len(restarts.exit_statuses),
                    "exit_statuses": restarts.exit_statuses,
                    "ready_after_s": restarts.ready_after_s,
                    "seconds": load.elapsed_s,
                    "p50_ms": percentile(load.latencies_s(), 50) * 1e3,
                    "p99_ms": percentile(load.latencies_s(), 99) * 1e3,
                    "slowest_ms": percentile(load.latencies_s(), 100) * 1e3,
                    "client": load.client_cost(),
                }
                rows.append(row)
                report.say(
                    f"{repetition + 1}: {row['failed']} of {row['requests']} failed during "
                    f"{row['restarts']} restarts in {load.elapsed_s:.0f} s; p50 "
                    f"{row['p50_ms']:.1f} ms, p99 {row['p99_ms']:.0f} ms, slowest "
                    f"{row['slowest_ms']:.0f} ms {dict(failed) or ''}"
                )
            errors = dict(balancer.errors())
            report.say(f"  nginx's errors, but for refused connections: {errors}")
        report.measurements["nginx_errors"] = errors
        report.measurements["repetitions"] = rows
    total = sum(len(row["ready_after_s"]) for row in rows)
    report.judge(
        f"0 failed of {arguments.requests} requests during rolling restarts, {arguments.times} "
        "times",
        f"{[row['failed'] for row in rows]} failed, {[row['restarts'] for row in rows]} restarts",
        not any(row["failed"] for row in rows) and all(row["restarts"] for row in rows),
    )
    statuses = Counter(status for row in rows for status in row["exit_statuses"])
    report.judge(
        "exit status 0 at every SIGTERM", f"{dict(statuses)} of {total}", set(statuses) == {0}
    )


async def _load(port: int, restarts: Restarts, arguments: argparse.Namespace) -> Load:
    restarting = asyncio.create_task(asyncio.to_thread(restarts.run))
    try:
        return await offer(
            Client(port),
            itertools.repeat(digit_call()),
            rate=arguments.rate,
            count=arguments.requests,
        )
    finally:
        restarts.stop.set()
        await restarting
