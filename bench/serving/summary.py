"""Summary of the repeats: medians with their spread, ratios, tables and targets."""

from bench.common.report import Report
from bench.common.spread import Spread, number
from bench.serving.contestants import ENTRIES, OURS, PEERS, Contestant
from bench.serving.measuring import Measurement, Results
from bench.serving.workloads import WORKLOADS, Workload

_HEADS = (
    "contestant", "connections", "images/s", "of the ceiling", "× best peer", "p50 ms", "p99 ms",
    "errors",
)  # fmt: skip


def select(
    results: Results, contestant: Contestant, workload: Workload, connections: int
) -> list[Measurement]:
    """The repeats of one load."""
    wanted = (contestant.name, workload.name, connections)
    return [
        each
        for each in results.measurements
        if (each.contestant, each.workload, each.connections) == wanted
    ]


def rate(
    results: Results, contestant: Contestant, workload: Workload, connections: int | None = None
) -> float | None:
    """The median of images a second: at so many connections, or where it is highest."""
    counts = {each.connections for each in results.measurements}
    found = [
        select(results, contestant, workload, count)
        for count in (counts if connections is None else [connections])
    ]
    medians = [Spread.of(each.images_per_s for each in it).median for it in found if it]
    return max(medians, default=None)


def best_peer(results: Results, workload: Workload, connections: int | None = None) -> float | None:
    """The rate of the fastest peer."""
    peers = [contestant for entry in PEERS for contestant in entry.contestants]
    found = [rate(results, peer, workload, connections) for peer in peers]
    return max((each for each in found if each is not None), default=None)


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
        rows = _rows(results, workload)
        if rows:
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
    for connections in sorted({each.connections for each in results.measurements}):
        peer = best_peer(results, workload, connections)
        for contestant in [contestant for entry in ENTRIES for contestant in entry.contestants]:
            found = select(results, contestant, workload, connections)
            if not found:
                continue
            images_per_s = Spread.of(each.images_per_s for each in found)
            row = (
                contestant.title,
                str(connections),
                images_per_s.shown(),
                f"{images_per_s.median / limit:.0%}" if limit else "–",
                f"{images_per_s.median / peer:.2f}" if peer else "–",
                Spread.of(each.p50_ms for each in found).shown(),
                Spread.of(each.p99_ms for each in found).shown(),
                str(sum(each.errors for each in found)),
            )
            rows.append(row)
    return rows


def _life(results: Results, name: str) -> tuple[str, ...]:
    visits = [each for each in results.visits if each.entry == name]
    lives = [(each.first_answer_s, each.largest_mb, each.total_mb) for each in visits]
    shown = [Spread.of(values).shown() for values in zip(*lives, strict=True)] or ["–"] * 3
    return name, *shown, results.failures.get(name, "no")


def _judge(report: Report, results: Results) -> None:
    """Compare with the targets; rates are each contestant's own best."""
    predict, explain, infer = OURS.contestants
    for workload in WORKLOADS.values():
        ours = rate(results, infer if infer.fits(workload) else predict, workload)
        limit, peer = top(results, workload.model), best_peer(results, workload)
        if ours is not None and limit is not None:
            target = f"{workload.title}: at least 85 % of ONNX Runtime alone"
            report.judge(target, f"{ours / limit:.0%}", ours / limit >= 0.85)
        if ours is not None and peer is not None:
            most = "" if limit is None else f"; the ceiling itself is {number(limit / peer)} ×"
            target = f"{workload.title}: at least 2.5 × the best peer"
            report.judge(target, f"{number(ours / peer)} ×{most}", ours / peer >= 2.5)
        explained = rate(results, explain, workload)
        if ours is not None and explained is not None:
            target = f"{workload.title}: `/explain` at least 90 % of `/predict`"
            report.judge(target, f"{explained / ours:.0%}", explained / ours >= 0.9)
    if visits := [each for each in results.visits if each.entry == OURS.name]:
        first_s = Spread.of(each.first_answer_s for each in visits)
        report.judge("first answer within 3 s", f"{first_s.shown()} s", first_s.median <= 3)
        largest_mb = Spread.of(each.largest_mb for each in visits)
        report.judge("at most 250 MB a worker", f"{largest_mb.shown()} MB", largest_mb.median < 250)
