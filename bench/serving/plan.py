"""A run of the benchmark: what it measures, in which order, and how long that takes."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

from bench.serving import ceiling, environments, machine
from bench.serving.contestants import Entry
from bench.serving.environments import Environment, NotInstallableError
from bench.serving.load import LoadError
from bench.serving.results import CeilingRate, Participant, Results
from bench.serving.servers import ServerError
from bench.serving.visits import WARM_UP_S, Images, visit
from bench.serving.workloads import WORKLOADS

CEILING = "ceiling"
# A start, a stop and the questions between, for the estimate.
_VISIT_S = 7.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one run measures."""

    entries: Sequence[Entry]
    ceiling: bool
    workloads: Sequence[str]
    connections: Sequence[int]
    repeats: int
    seconds: float
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks run."""

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(WORKLOADS[name].model for name in self.workloads))

    @property
    def total_s(self) -> float:
        """About how long it takes, without the installation of the peers."""
        pairs = [
            (contestant, name)
            for entry in self.entries
            for contestant in entry.contestants
            for name in self.workloads
            if contestant.fits(WORKLOADS[name])
        ]
        loads = len(pairs) * len(self.connections)
        visits = len(self.entries) * len(self.models)
        rates = len(ceiling.LAYOUTS[self.device]) * len(ceiling.BATCHES[self.device])
        rates *= len(self.models) * self.ceiling
        one = loads * (self.seconds + WARM_UP_S) + visits * _VISIT_S + rates * self.ceiling_s
        return one * self.repeats

    @property
    def ceiling_s(self) -> float:
        """Seconds for each layout and batch size."""
        return self.seconds / 2


def rotated(names: Sequence[str], repeat: int) -> list[str]:
    """The order of a repeat: each begins with the next name."""
    at = repeat % len(names)
    return [*names[at:], *names[:at]]


def run(plan: Plan, *, json_file: Path | None) -> Results:
    """Measure; after each visit `json_file` has what there is.

    A server that fails to install or to run is reported with the reason.

    Raises:
        LoadError: wrk is not installed.
        CeilingError: the device cannot be had.
    """
    results = _blank(plan)
    ready = _environments(plan, results)
    images = [Images.of(WORKLOADS[name]) for name in plan.workloads]
    by_name = {entry.name: entry for entry in plan.entries}
    names = [*by_name, CEILING] if plan.ceiling else list(by_name)
    for repeat in range(plan.repeats):
        for name in rotated(names, repeat):
            print(f"repeat {repeat + 1} of {plan.repeats}: {name}", flush=True)
            if name == CEILING:
                _measure_ceiling(plan, repeat, results)
                continue
            if by_name[name].environment in ready:
                _visit(plan, by_name[name], ready, images, repeat, results)
            if json_file is not None:
                results.write(json_file)
    return results


def _visit(
    plan: Plan,
    entry: Entry,
    ready: dict[str | None, Environment],
    images: Sequence[Images],
    repeat: int,
    results: Results,
) -> None:
    for model in plan.models:
        try:
            visited = visit(
                entry,
                ready[entry.environment],
                [each for each in images if each.workload.model == model],
                connections=plan.connections,
                seconds=plan.seconds,
                repeat=repeat,
                record=results.measurements.append,
                failed=partial(_mark_failed, results, entry),
                device=plan.device,
            )
        except (ServerError, LoadError) as error:
            _mark_failed(results, entry, str(error))
        else:
            results.visits.append(visited)


def _blank(plan: Plan) -> Results:
    return Results(
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        machine=machine.describe(gpu=plan.device == "cuda"),
        seconds=plan.seconds,
        repeats=plan.repeats,
        connections=list(plan.connections),
        workloads={name: WORKLOADS[name].title for name in plan.workloads},
        models={name: WORKLOADS[name].model for name in plan.workloads},
        participants=[
            Participant(
                name=contestant.name,
                title=contestant.title,
                ours=entry.environment is None,
                setup=entry.setup,
                versions={},
            )
            for entry in plan.entries
            for contestant in entry.contestants
        ],
    )


def _environments(plan: Plan, results: Results) -> dict[str | None, Environment]:
    """Those that could be made; who needs another is marked."""
    ready: dict[str | None, Environment] = {None: environments.own()}
    failures: dict[str | None, str] = {}
    for entry in plan.entries:
        name = entry.environment
        if name is not None and name not in ready and name not in failures:
            try:
                ready[name] = environments.prepare(name, device=plan.device)
            except NotInstallableError as error:
                failures[name] = str(error)
        if name in failures:
            _mark_failed(results, entry, f"not installable: {failures[name]}")
        else:
            _update(results, entry, versions=ready[name].versions(entry.packages))
    return ready


def _measure_ceiling(plan: Plan, repeat: int, results: Results) -> None:
    for model in plan.models:
        rates = ceiling.measure(model, seconds=plan.ceiling_s, device=plan.device)
        results.ceiling.extend(
            CeilingRate(model=model, repeat=repeat, **asdict(rate)) for rate in rates
        )
        best = max(rates, key=lambda rate: rate.images_per_s)
        print(
            f"  {model}: {best.images_per_s:.0f} images/s with {best.processes} processes of "
            f"{best.threads} threads at batch {best.batch}",
            flush=True,
        )


def _mark_failed(results: Results, entry: Entry, reason: str) -> None:
    print(f"  {entry.name} fails: {reason}", file=sys.stderr, flush=True)
    _update(results, entry, failure=" ".join(reason.split())[:300])


def _update(results: Results, entry: Entry, **changes: object) -> None:
    names = {contestant.name for contestant in entry.contestants}
    for at, participant in enumerate(results.participants):
        if participant.name in names:
            results.participants[at] = participant.model_copy(update=changes)
