"""Measurements of one visit: a server is started, loaded as the run asks for, and stopped."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.common.client import Call, Client, http_request
from bench.common.load import Load, keep_busy, run
from bench.common.server import SETTLE_S, Question, Server, running
from bench.common.spread import percentile
from bench.serving.ceiling import Rate
from bench.serving.contestants import Contestant, Entry, variables
from bench.serving.environments import Environment
from bench.serving.workloads import Workload, bodies, surest

_WARM_UP_S = 1.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """One load on one contestant; rates and latencies are those of good answers."""

    contestant: str
    workload: str
    connections: int
    repeat: int
    images_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    client_cores: float


@dataclass(frozen=True, slots=True)
class Visit:
    """One life of a server: how soon it answered right, and its memory (PSS) after the load."""

    entry: str
    first_answer_s: float
    largest_mb: float
    total_mb: float


@dataclass
class Results:
    """Everything that a run has measured so far."""

    measurements: list[Measurement] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)
    rates: list[Rate] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Reasons by the entry's name."""


def visit(
    entry: Entry,
    environment: Environment,
    workloads: Sequence[Workload],
    results: Results,
    *,
    connections: Sequence[int],
    seconds: float,
    repeat: int,
    device: str = "cpu",
) -> None:
    """Measure every contestant of one server under `workloads`, all of which are one model's.

    Under a load of which it answers nothing a contestant has failed: it is spared larger ones.

    Raises:
        ServerError: the server does not start, or answers wrong.
    """
    pairs = [
        (contestant, workload)
        for contestant, workload in itertools.product(entry.contestants, workloads)
        if contestant.fits(workload)
    ]
    if not pairs:
        return
    first_answer_s: list[float] = []
    with running(
        lambda port: entry.command(environment, port),
        variables(entry, model=workloads[0].model, device=device),
        stop_signal=entry.stop_signal,
    ) as server:
        # Each second visit in the opposite order.
        for contestant, workload in pairs[:: -1 if repeat % 2 else 1]:
            calls, question = requests_of(contestant, workload)
            first_answer_s.append(server.wait(question))
            time.sleep(SETTLE_S)
            for count in connections:
                _busy(server, calls, count, _WARM_UP_S)
                load = _busy(server, calls, count, seconds)
                if not load.count()["200"]:
                    at = f"{workload.name} at {count} connections"
                    results.failures[entry.name] = f"{at}: {dict(load.count())}"
                    break
                latencies_s = load.latencies_s()
                measured = Measurement(
                    contestant.name,
                    workload.name,
                    count,
                    repeat,
                    images_per_s=load.goodput() * workload.batch,
                    p50_ms=1e3 * percentile(latencies_s, 50),
                    p99_ms=1e3 * percentile(latencies_s, 99),
                    errors=len(load.outcomes) - len(latencies_s),
                    client_cores=load.client_cores,
                )
                results.measurements.append(measured)
                print(f"  {measured}", flush=True)
            server.wait(question)  # it still answers right
        memory_mb = [each.memory_full_info().pss / 1e6 for each in server.family()]
    results.visits.append(Visit(entry.name, first_answer_s[0], max(memory_mb), sum(memory_mb)))


def requests_of(contestant: Contestant, workload: Workload) -> tuple[list[Call], Question]:
    """All requests of a workload, and the one that shows whether the server answers right."""
    path = contestant.path.format(model=workload.model)
    encoded = [contestant.encode(body, workload) for body in bodies(workload)]
    calls = [
        Call(contestant.name, http_request("POST", path, body, dict(headers)))
        for body, headers in encoded
    ]
    index, label = surest(workload)
    return calls, Question(path, contestant.label, label, *encoded[index])


def _busy(server: Server, calls: Sequence[Call], connections: int, seconds: float) -> Load:
    client, cycle = Client(server.port), itertools.cycle(calls)
    return run(keep_busy(client, cycle, connections=connections, seconds=seconds))
