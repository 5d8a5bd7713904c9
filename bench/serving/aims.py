"""What the service was to reach on two cores, load generator included, or on a GPU."""

from collections.abc import Iterable
from dataclasses import dataclass

from bench.serving.results import Results
from bench.serving.summary import (
    Spread,
    ceiling,
    first_answer_s,
    peak,
    peak_of_peers,
    rows,
    side_by_side,
    worker_mb,
)


@dataclass(frozen=True, slots=True)
class Aim:
    """`value` against `limit`, which is the least wanted or, `at_most`, the most."""

    title: str
    value: float
    limit: float
    at_most: bool = False
    unit: str = "×"
    bound: float | None = None
    """What ONNX Runtime alone, with the cores to itself, would reach: more cannot be had."""
    spread: Spread | None = None
    """Of `value`, where it is a median of ratios."""

    @property
    def met(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit


def aims(results: Results) -> list[Aim]:
    """Those whose both sides were measured; rates are each contestant's own best.

    But for `/explain` beside `/predict`, which are loads of one and the same server: there it is
    the median of what the repeats say, each for itself.
    """
    if results.machine.gpu is not None:
        return list(_share_of_a_gpu(results))
    return [*_throughput(results), *_tails(results), *_footprint(results)]


def _share_of_a_gpu(results: Results) -> Iterable[Aim]:
    for workload, title in results.workloads.items():
        ours = peak(results, "infer", workload)
        top = ceiling(results, results.models[workload])
        if ours is not None and top is not None:
            yield Aim(f"{title}: batches to the ceiling", ours / top, 0.8)


def _throughput(results: Results) -> Iterable[Aim]:
    for workload, title in results.workloads.items():
        name, ours = "`/predict`", peak(results, "predict", workload)
        if ours is None:
            name, ours = "batches", peak(results, "infer", workload)
        if ours is None:
            continue
        top = ceiling(results, results.models[workload])
        if results.models[workload] == "cifar10":
            if top is not None:
                yield Aim(f"{title}: {name} to the ceiling", ours / top, 0.85)
            for other in ("bentoml", "bentoml-default", "bentoml-array"):
                native = peak(results, other, workload)
                if native is not None:
                    bound = top / native if top else None
                    yield Aim(f"{title}: {name} to `{other}`", ours / native, 3.0, bound=bound)
        else:
            best = peak_of_peers(results, workload)
            if best is not None:
                bound = top / best if top else None
                yield Aim(f"{title}: {name} to the best peer", ours / best, 2.5, bound=bound)
        explain = side_by_side(results, "explain", "predict", workload)
        if explain is not None:
            title_of = f"{title}: `/explain` to `/predict`"
            yield Aim(title_of, explain.median, 0.9, spread=explain)


def _tails(results: Results) -> Iterable[Aim]:
    for row in rows(results):
        if row.participant.name == "predict" and row.connections == 16:
            title = f"{results.workloads[row.workload]}: p99 to p50 at 16 connections"
            yield Aim(title, row.tail, 3.0, at_most=True)


def _footprint(results: Results) -> Iterable[Aim]:
    first = first_answer_s(results, "predict")
    if first is not None:
        yield Aim("first answer after the start", first.median, 3.0, at_most=True, unit=" s")
    memory = worker_mb(results, "predict")
    if memory is not None:
        yield Aim("largest worker after the load", memory.median, 250.0, at_most=True, unit=" MB")
