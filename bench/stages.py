"""Where the time of a request goes: read, decode, queue, compute, render, and what is left.

`python -m bench.stages` starts the service, loads it over 1 and 64 connections, and reads what it
measured of itself from /metrics. `rest` is the service's own time between the stages; `outside`
is what the client waited beyond the service's measure: the kernel, the server's HTTP parsing, and
its own turn on the shared cores. `CPU` is what all processes of the service used for a request.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from bench.serving import environments, machine
from bench.serving.contestants import OURS
from bench.serving.load import Load, LoadError
from bench.serving.results import Machine
from bench.serving.scrape import Samples
from bench.serving.servers import Server, ServerError
from bench.serving.visits import Images, Target, scrape, started
from bench.serving.workloads import WORKLOADS

STAGES = ("read", "decode", "queue", "compute", "render")
CONNECTIONS = (1, 64)


class Breakdown(BaseModel):
    """Mean microseconds of a request, all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    route: str
    workload: str
    connections: int
    requests_per_s: float
    stages_us: dict[str, float]
    """Over all requests, those included that ended before they came to the stage."""
    service_us: float
    """From the request's head to the answer's last byte, as the service says."""
    client_us: float
    """As wrk says."""
    cpu_us: float
    mean_batch: float

    @property
    def rest_us(self) -> float:
        return self.service_us - sum(self.stages_us.values())

    @property
    def outside_us(self) -> float:
        return self.client_us - self.service_us


class Report(BaseModel):
    """The JSON file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    date: str
    machine: Machine
    versions: dict[str, str]
    seconds: float
    breakdowns: list[Breakdown]


class NotMeasuredError(Exception):
    """The service does not tell what the breakdown is made of."""


def breakdown(
    grown: Samples,
    load: Load,
    *,
    route: str,
    workload: str,
    model: str,
    connections: int,
    cpu_s: float,
) -> Breakdown:
    """Out of what the metrics grew by during a load and the CPU seconds it cost.

    Raises:
        NotMeasuredError: a metric is absent, or saw nothing of this load.
    """
    duration = grown.histogram("limelight_request_duration_seconds", route=route)
    if duration is None or not duration.count:
        raise NotMeasuredError(f"limelight_request_duration_seconds{{route={route!r}}} is absent")
    stages_us = {}
    for stage in STAGES:
        spent = grown.histogram("limelight_stage_duration_seconds", model=model, stage=stage)
        if spent is None:
            raise NotMeasuredError(f"limelight_stage_duration_seconds{{stage={stage!r}}} is absent")
        stages_us[stage] = spent.total / duration.count * 1e6
    sizes = grown.histogram("limelight_batch_size", model=model)
    return Breakdown(
        route=route,
        workload=workload,
        connections=connections,
        requests_per_s=load.requests_per_s,
        stages_us=stages_us,
        service_us=duration.mean * 1e6,
        client_us=load.mean_ms * 1000,
        cpu_us=cpu_s / duration.count * 1e6,
        mean_batch=sizes.mean if sizes else 0.0,
    )


def measure(names: Sequence[str], *, connections: Sequence[int], seconds: float) -> Report:
    """Each workload on a fresh service, `/predict` and `/explain`.

    Raises:
        ServerError: the service does not start.
        LoadError: wrk failed, or is not installed.
        NotMeasuredError: the service's metrics lack something.
    """
    described, environment, made = machine.describe(), environments.own(), []
    for name in names:
        images = Images.of(WORKLOADS[name])
        with started(OURS, environment, images.workload.model) as (server, folder):
            for contestant in OURS.contestants:
                if not contestant.fits(images.workload):
                    continue
                target = Target.of(contestant, images, folder)
                server.wait(target.question)
                for count in connections:
                    made.append(_measure(server, target, count, seconds))
                    print(_line(made[-1]), flush=True)
    return Report(
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        machine=described,
        versions=environment.versions(OURS.packages),
        seconds=seconds,
        breakdowns=made,
    )


def _measure(server: Server, target: Target, connections: int, seconds: float) -> Breakdown:
    target.warm_up(server, connections=connections)
    before, cpu_s = scrape(server), server.cpu_s()
    measured = target.run(server, connections=connections, seconds=seconds)
    cpu_s = server.cpu_s() - cpu_s
    workload = target.images.workload
    return breakdown(
        scrape(server).since(before),
        measured,
        route=target.contestant.path.partition("?")[0],
        workload=workload.title,
        model=workload.model,
        connections=connections,
        cpu_s=cpu_s,
    )


_HEADS = (*STAGES, "rest", "service", "outside", "client", "CPU", "mean batch", "requests/s")


def render_markdown(report: Report) -> str:
    """The table, in microseconds."""
    heads = ("route", "images", "connections", *_HEADS)
    rule = ("---", "---", *(["--:"] * (len(heads) - 2)))
    lines = [
        (f"`{each.route}`", each.workload, str(each.connections), *_cells(each))
        for each in report.breakdowns
    ]
    return "".join("| " + " | ".join(line) + " |\n" for line in (heads, rule, *lines))


def _cells(made: Breakdown) -> list[str]:
    microseconds = [*made.stages_us.values(), made.rest_us, made.service_us]
    microseconds += [made.outside_us, made.client_us, made.cpu_us]
    cells = [f"{value:,.0f}" for value in microseconds]
    return [*cells, f"{made.mean_batch:.1f}", f"{made.requests_per_s:,.0f}"]


def _line(made: Breakdown) -> str:
    cells = "  ".join(f"{head} {cell}" for head, cell in zip(_HEADS, _cells(made), strict=True))
    return f"{made.route} {made.workload}, {made.connections} connections, µs: {cells}"


def main() -> int:
    """Measure, print and write; 1 where the service cannot be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.stages", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load, whole ones")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    arguments = parser.parse_args()
    try:
        # Batches come decoded, by a route that has not these stages.
        names = [name for name, workload in WORKLOADS.items() if workload.batch == 1]
        report = measure(names, connections=CONNECTIONS, seconds=arguments.seconds)
    except (LoadError, NotMeasuredError, ServerError) as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    print("\n" + render_markdown(report), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
