"""One load on a service, with a look at the service meanwhile: its CPU time and connections."""

import asyncio
import math
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from bench.steadiness import kernel
from bench.steadiness.client import Call, Client
from bench.steadiness.load import Load, keep_busy, offer, run
from bench.steadiness.service import Service

_LOOK_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class Step:
    """A load and what it did to the service."""

    load: Load
    service_cores: float
    """CPU time of all its processes, a second."""
    other_cores: float
    """Of everybody else on the machine. Where this is much, the numbers are worth little."""
    connections: list[int]
    """How many each worker held, a second after the start. Uneven ones leave cores idle."""

    def cost(self) -> dict[str, Any]:
        """Who used the machine: the service, and the client that shares it."""
        return {
            "service_cores": self.service_cores,
            "other_cores": self.other_cores,
            "connections_by_worker": self.connections,
            "client": self.load.client_cost(),
        }

    def described(self) -> str:
        """The same as a line of text."""
        cost = self.load.client_cost()
        return (
            f"service {self.service_cores:.2f} cores, connections by worker {self.connections}; "
            f"client {cost['cores']:.2f} cores, {cost['us_a_request']:.0f} µs a request, 99 % sent "
            f"within {cost['late_p99_ms']:.1f} ms; others {self.other_cores:.2f} cores"
        )


def busy(
    service: Service,
    calls: Iterator[Call],
    *,
    connections: int,
    seconds: float = math.inf,
    count: float = math.inf,
) -> Step:
    """Closed loop: `connections` requests are always under way, for so long, or so many."""
    client = Client(service.port)
    load = keep_busy(client, calls, connections=connections, seconds=seconds, count=count)
    return run(_look(service, load))


def offered(service: Service, calls: Iterator[Call], *, rate: float, seconds: float) -> Step:
    """Open loop: `rate` requests a second, whatever becomes of them."""
    client = Client(service.port)
    return run(_look(service, offer(client, calls, rate=rate, count=round(rate * seconds))))


async def _look(service: Service, load: Coroutine[Any, Any, Load]) -> Step:
    family, workers = service.family(), service.workers()
    before_s, started_s = sum(map(kernel.cpu_seconds, family)), time.perf_counter()
    machine_s = kernel.machine_cpu_seconds()
    loading = asyncio.create_task(load)
    await asyncio.wait([loading], timeout=_LOOK_AFTER_S)
    connections = [len(kernel.client_ports(pid)) for pid in workers]
    done = await loading
    service_s = sum(map(kernel.cpu_seconds, family)) - before_s
    other_s = kernel.machine_cpu_seconds() - machine_s - service_s - done.client_cpu_s
    elapsed_s = time.perf_counter() - started_s
    return Step(done, service_s / elapsed_s, max(0.0, other_s / elapsed_s), connections)
