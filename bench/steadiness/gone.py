"""Images computed for clients that hung up while they waited: there should be none.

Many requests are sent at once to one worker. The first of them keep it busy, and all who came
after these hang up before it gets to them.
"""

import argparse
import asyncio
import time
from typing import Any

from bench.steadiness.calls import cifar_call
from bench.steadiness.client import LEFT, Client
from bench.steadiness.load import run
from bench.steadiness.report import Report
from bench.steadiness.service import Service, running

_READING_S = 0.15
_GIVE_UP_S = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this command."""
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--leave", type=int, default=300, help="clients that hang up")
    parser.add_argument("--stay", type=int, default=600, help="clients in front of them")


def measure(arguments: argparse.Namespace, report: Report) -> None:
    """Compare the images that went through the network with the clients that waited for them."""
    settings = {
        "LIMELIGHT_WORKERS": "1",
        # Nothing is to be refused here.
        "LIMELIGHT_TIMEOUT_S": "600",
        "LIMELIGHT_MAX_QUEUED": "100000",
    }
    with running(settings) as [service]:
        rows = []
        for route in ("/predict", "/explain"):
            for _ in range(arguments.times):
                rows.append(run(_hang_up(service, route, arguments)))
                report.say(f"{route}: {rows[-1]}")
        report.measurements["repetitions"] = rows
    in_vain = [row["computed"] - row["answered"] for row in rows]
    report.judge(
        "no image is computed for clients that hung up while they waited",
        f"{in_vain} for {[row['left'] for row in rows]} clients",
        not any(in_vain) and all(row["queued"] > row["left"] > 0 for row in rows),
    )
    report.judge(
        "every client that stays is answered",
        f"{[row['stayed_and_answered'] for row in rows]} of {arguments.stay}",
        all(row["stayed_and_answered"] == arguments.stay for row in rows),
    )


async def _hang_up(service: Service, route: str, arguments: argparse.Namespace) -> dict[str, Any]:
    before = _computed(service)
    call = cifar_call(route)
    staying, leaving = Client(service.port), Client(service.port)
    for client, count in ((staying, arguments.stay), (leaving, arguments.leave)):
        for _ in range(count):
            client.send(call)
        # Time to read them all, or the order in which they wait would not be that of sending.
        await asyncio.sleep(_READING_S)
    queued = await asyncio.to_thread(_queued, service, arguments.leave)
    in_front = staying.under_way
    for connection in list(leaving.connections):
        connection.leave()
    await staying.finish()
    await leaving.finish()
    # A pass for those who left may still run.
    await asyncio.sleep(1.5)
    answered = sum(each.result == "200" for each in (*leaving.outcomes, *staying.outcomes))
    return {
        "in_front": in_front,
        "queued": queued,
        "left": sum(each.result == LEFT for each in leaving.outcomes),
        "answered": answered,
        "stayed_and_answered": sum(each.result == "200" for each in staying.outcomes),
        "computed": round(_computed(service) - before),
    }


def _queued(service: Service, least: int) -> int:
    """Images that wait, once they are more than `least`: then those who will leave are in."""
    end_s = time.perf_counter() + _GIVE_UP_S
    while True:
        depth = round(service.metrics().sum("limelight_queue_depth", model="cifar10"))
        if depth > least or time.perf_counter() > end_s:
            return depth


def _computed(service: Service) -> float:
    return service.metrics().sum("limelight_batch_size_sum", model="cifar10")
