"""What the repeats come to: medians with their spread, peaks and ratios."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from bench.serving.results import Measurement, Participant, Results, Visit


@dataclass(frozen=True, slots=True)
class Spread:
    """A median over the repeats, with the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Raises:
        ValueError: there are no values.
        """
        all_values = list(values)
        if not all_values:
            raise ValueError("nothing was measured")
        return cls(median(all_values), min(all_values), max(all_values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One contestant at one workload and number of connections, over the repeats.

    The ratios are None where what they compare with was not measured.
    """

    participant: Participant
    workload: str
    connections: int
    images_per_s: Spread
    p50_ms: Spread
    p99_ms: Spread
    mean_batch: float | None
    errors: int
    to_ceiling: float | None
    to_best_peer: float | None

    @property
    def tail(self) -> float:
        """p99 as a multiple of p50."""
        return self.p99_ms.median / self.p50_ms.median


def rows(results: Results) -> list[Row]:
    """Summarise: by workload, then connections, in the participants' order."""
    made = []
    for workload in results.workloads:
        top = ceiling(results, results.models[workload])
        for connections in results.connections:
            best = _best_peer(results, workload, connections)
            for participant in results.participants:
                found = _select(results, participant.name, workload, connections)
                if not found:
                    continue
                rate = Spread.of(each.images_per_s for each in found)
                batches = [each.mean_batch for each in found if each.mean_batch is not None]
                made.append(
                    Row(
                        participant=participant,
                        workload=workload,
                        connections=connections,
                        images_per_s=rate,
                        p50_ms=Spread.of(each.p50_ms for each in found),
                        p99_ms=Spread.of(each.p99_ms for each in found),
                        mean_batch=median(batches) if batches else None,
                        errors=sum(sum(each.errors.values()) for each in found),
                        to_ceiling=rate.median / top if top else None,
                        to_best_peer=rate.median / best if best else None,
                    )
                )
    return made


def ceiling(results: Results, model: str) -> float | None:
    """Images per second of ONNX Runtime alone: its best layout and batch size, in the median."""
    return max(
        (spread.median for spread in ceiling_by_batch(results, model).values()), default=None
    )


def ceiling_by_batch(results: Results, model: str) -> dict[int, Spread]:
    """The same for each batch size, with the layout that is best there."""
    groups: dict[tuple[int, int], list[float]] = {}
    for rate in results.ceiling:
        if rate.model == model:
            groups.setdefault((rate.batch, rate.processes), []).append(rate.images_per_s)
    best: dict[int, Spread] = {}
    for (batch, _), values in sorted(groups.items()):
        spread = Spread.of(values)
        if batch not in best or spread.median > best[batch].median:
            best[batch] = spread
    return best


def peak(results: Results, contestant: str, workload: str) -> float | None:
    """Its median images per second at the number of connections that suits it best."""
    return _largest(
        _rate(results, contestant, workload, connections) for connections in results.connections
    )


def side_by_side(results: Results, contestant: str, beside: str, workload: str) -> Spread | None:
    """Its images per second by those of another of the same server, repeat by repeat.

    The two were loaded within seconds of each other, so that the machine's own moods, which last
    longer, count less than in a ratio of medians. At the number of connections that suits
    `beside` best, of those that both were measured at.
    """
    rates = {
        count: rate
        for count in results.connections
        if _select(results, contestant, workload, count)
        and (rate := _rate(results, beside, workload, count)) is not None
    }
    if not rates:
        return None
    best = max(rates, key=rates.__getitem__)
    others = {each.repeat: each.images_per_s for each in _select(results, beside, workload, best)}
    return Spread.of(
        each.images_per_s / others[each.repeat]
        for each in _select(results, contestant, workload, best)
        if each.repeat in others
    )


def peak_of_peers(results: Results, workload: str) -> float | None:
    """`peak` of whichever peer has the highest."""
    return _largest(
        peak(results, each.name, workload) for each in results.participants if not each.ours
    )


def first_answer_s(results: Results, contestant: str) -> Spread | None:
    """Seconds from the process's start to the first right answer, over models and repeats."""
    return _of_visits(results, contestant, lambda visit: visit.first_answer_s)


def worker_mb(results: Results, contestant: str) -> Spread | None:
    """Megabytes (PSS) of the largest process of each visit that worked."""
    return _of_visits(
        results,
        contestant,
        lambda visit: max(each.pss_mb for each in visit.processes if each.working),
    )


def total_mb(results: Results, contestant: str) -> Spread | None:
    """Megabytes (PSS) of all processes of each visit together."""
    return _of_visits(
        results, contestant, lambda visit: sum(each.pss_mb for each in visit.processes)
    )


def probe(results: Results) -> Spread | None:
    """The machine's own speed before each visit, in images per second."""
    values = [visit.probe_images_per_s for visit in results.visits]
    return Spread.of(values) if values else None


def _of_visits(results: Results, contestant: str, value: Callable[[Visit], float]) -> Spread | None:
    values = [value(visit) for visit in results.visits if contestant in visit.contestants]
    return Spread.of(values) if values else None


def _best_peer(results: Results, workload: str, connections: int) -> float | None:
    return _largest(
        _rate(results, each.name, workload, connections)
        for each in results.participants
        if not each.ours
    )


def _rate(results: Results, contestant: str, workload: str, connections: int) -> float | None:
    found = _select(results, contestant, workload, connections)
    return median(each.images_per_s for each in found) if found else None


def _select(
    results: Results, contestant: str, workload: str, connections: int
) -> list[Measurement]:
    wanted = (contestant, workload, connections)
    return [
        each
        for each in results.measurements
        if (each.contestant, each.workload, each.connections) == wanted
    ]


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
