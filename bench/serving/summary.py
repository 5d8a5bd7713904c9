"""Summary of the repeats: medians with their spread, ratios, tables and targets."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.common.report import Report
from bench.common.spread import Spread, number
from bench.serving.contestants import ENTRIES, OURS, PEERS
from bench.serving.measuring import Measurement, Results
from bench.serving.workloads import WORKLOADS, Workload

_HEADS = (
    "contestant", "connections", "images/s", "of the ceiling", "× best peer", "p50 ms", "p99 ms",
    "errors",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Targets:
    """Targets of one workload; None: no target."""

    of_ceiling: float
    """Share of ONNX Runtime alone, at `_CONNECTIONS`."""
    best_peer: float | None = None
    """Ratio to the best peer with the same float32 file, each at its own best."""
    best_peer_int8: float | None = None
    """The same of int8, beside the peers' float32."""


TARGETS = {
    "digits-png": Targets(0.6, 3),
    "cifar10-png": Targets(0.9, 1.25, 2.5),
    "cifar10-jpeg": Targets(0.8, 1.25, 2.5),
    "digits-batch": Targets(0.85),
    "cifar10-batch": Targets(0.9),
}
_CONNECTIONS = 64
_FIRST_ANSWER_S, _WORKER_MB = 2, 140
_PEERS = [contestant.name for entry in PEERS for contestant in entry.contestants]

Loads = dict[tuple[str, int], list[Measurement]]
"""The repeats of each load, by the contestant's name and the number of connections."""


def loads_of(results: Results, workload: Workload) -> Loads:
    """Group the measurements under one workload."""
    loads: Loads = {}
    for each in results.measurements:
        if each.workload == workload.name:
            loads.setdefault((each.contestant, each.connections), []).append(each)
    return loads


def best(loads: Loads, names: Sequence[str], connections: int | None = None) -> float | None:
    """The highest median of images a second, at so many connections or at any number."""
    medians = [
        Spread.of(each.images_per_s for each in repeats).median
        for (name, count), repeats in loads.items()
        if name in names and connections in (None, count)
    ]
    return max(medians, default=None)


def ceiling(results: Results, model: str) -> dict[int, Spread]:
    """ONNX Runtime alone by batch size, with the layout that is best there."""
    found: dict[tuple[int, int], list[float]] = {}
    for each in results.rates:
        if each.model == model:
            found.setdefault((each.batch, each.processes), []).append(each.images_per_s)
    best: dict[int, Spread] = {}
    for (batch, _), values in sorted(found.items()):
        spread = Spread.of(values)
        if batch not in best or spread.median > best[batch].median:
            best[batch] = spread
    return best


def top(results: Results, model: str) -> float | None:
    """The ceiling at its best batch size."""
    return max((spread.median for spread in ceiling(results, model).values()), default=None)


def add_to(report: Report, results: Results) -> None:
    """Add every table, and compare with the targets."""
    for workload in WORKLOADS.values():
        if rows := _rows(results, workload):
            report.add_table(workload.title, _HEADS, rows)
    for model in dict.fromkeys(each.model for each in results.rates):
        ceilings = [
            (str(batch), spread.shown()) for batch, spread in ceiling(results, model).items()
        ]
        report.add_table(f"ONNX Runtime alone, {model}", ("batch", "images/s"), ceilings)
    servers = [(*_life(results, entry.name), entry.setup) for entry in ENTRIES]
    heads = ("server", "first answer s", "largest process MB", "all MB", "failed", "how")
    report.add_table("Servers", heads, servers)
    _judge(report, results)


def _rows(results: Results, workload: Workload) -> list[tuple[str, ...]]:
    rows, limit = list[tuple[str, ...]](), top(results, workload.model)
    titles = {each.name: each.title for entry in ENTRIES for each in entry.contestants}
    loads = loads_of(results, workload)
    for (name, connections), repeats in sorted(loads.items(), key=lambda load: load[0][1]):
        images_per_s = Spread.of(each.images_per_s for each in repeats)
        peer = best(loads, _PEERS, connections)
        row = (
            titles[name],
            str(connections),
            images_per_s.shown(),
            f"{images_per_s.median / limit:.0%}" if limit else "–",
            f"{images_per_s.median / peer:.2f}" if peer else "–",
            Spread.of(each.p50_ms for each in repeats).shown(),
            Spread.of(each.p99_ms for each in repeats).shown(),
            str(sum(each.errors for each in repeats)),
        )
        rows.append(row)
    return rows


def _life(results: Results, name: str) -> tuple[str, ...]:
    visits = [each for each in results.visits if each.entry == name]
    lives = [(each.first_answer_s, each.largest_mb, each.total_mb) for each in visits]
    shown = [Spread.of(values).shown() for values in zip(*lives, strict=True)] or ["–"] * 3
    return name, *shown, results.failures.get(name, "no")


def _judge(report: Report, results: Results) -> None:
    for workload in WORKLOADS.values():
        _judge_workload(report, results, workload)
    if visits := [each for each in results.visits if each.entry == OURS.name]:
        first_s = Spread.of(each.first_answer_s for each in visits)
        target = f"first answer within {_FIRST_ANSWER_S} s"
        report.judge(target, f"{first_s.shown()} s", first_s.median <= _FIRST_ANSWER_S)
        largest_mb = Spread.of(each.largest_mb for each in visits)
        target = f"at most {_WORKER_MB} MB a worker"
        report.judge(target, f"{largest_mb.shown()} MB", largest_mb.median <= _WORKER_MB)


def _judge_workload(report: Report, results: Results, workload: Workload) -> None:
    targets, loads = TARGETS[workload.name], loads_of(results, workload)
    limit, peer = top(results, workload.model), best(loads, _PEERS)
    at_64 = best(loads, ["predict", "infer"], _CONNECTIONS)
    if at_64 is not None and limit is not None:
        target = f"{workload.title}: at least {targets.of_ceiling:.0%} of ONNX Runtime alone"
        report.judge(target, f"{at_64 / limit:.0%}", at_64 / limit >= targets.of_ceiling)
    for names, least, what in (
        (["predict", "infer", "oip"], targets.best_peer, ""),
        (["predict-int8", "infer-int8", "oip-int8"], targets.best_peer_int8, "int8 "),
    ):
        ours = best(loads, names)
        if ours is not None and peer is not None and least is not None:
            most = "" if limit is None else f"; the ceiling of float32 is {number(limit / peer)} ×"
            target = f"{workload.title}: {what}at least {least} × the best peer"
            report.judge(target, f"{number(ours / peer)} ×{most}", ours / peer >= least)
    ours, explained = best(loads, ["predict"]), best(loads, ["explain"])
    if ours is not None and explained is not None:
        target = f"{workload.title}: `/explain` at least 90 % of `/predict`"
        report.judge(target, f"{explained / ours:.0%}", explained / ours >= 0.9)
