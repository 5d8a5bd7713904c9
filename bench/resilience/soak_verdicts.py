"""Observations of a soak (honest requests, resources of processes), with tables and verdicts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

from bench.common.client import Outcome
from bench.common.report import Report
from bench.common.spread import number, percentile

_MOST_GROWTH = 0.1  # of the median of the last fifth, compared with the second fifth
_RECOVERY_S = 5.0  # from a kill until requests do not fail any more
_EXCUSED = {"503", "UNAVAILABLE", "closed", "reset", "connected"}  # words of an outcome's result
_QUANTITIES = {"memory_mb": "memory (MB)", "descriptors": "descriptors", "threads": "threads"}
ROLES = PARENT, OLDEST, OTHER = "parent", "oldest worker", "other worker"


class Sample(NamedTuple):
    """Resources of one process at one time, in seconds since the start."""

    at_s: float
    role: str
    pid: int
    memory_mb: float
    """Proportional set size: a page that processes share counts once in all."""
    descriptors: int
    threads: int


@dataclass
class Seen:
    """All that a soak of `seconds` saw; times are in seconds since its start."""

    seconds: float
    samples: list[Sample] = field(default_factory=list)
    honest: list[Outcome] = field(default_factory=list)
    hostile: Counter[str] = field(default_factory=Counter)
    """Outcomes of hostile requests, as in "stray: 404"."""
    kills_s: list[float] = field(default_factory=list)
    metrics_lines: list[tuple[float, int]] = field(default_factory=list)
    """Lines of /metrics, and when."""

    @property
    def minute_s(self) -> float:
        """The span of one report: a minute, or less if the soak is short."""
        return min(60.0, self.seconds / 5)

    def summary(self, start_s: float, end_s: float) -> dict[str, Any]:
        """Honest requests sent in a span, and the medians of what each role held."""
        sent = [each for each in self.honest if start_s <= each.sent_s < end_s]
        times = sorted(each.seconds for each in sent if each.result == "200")
        failed = failures(sent, self.kills_s)
        found: dict[str, Any] = {
            "requests": len(sent),
            "failed": len(failed),
            "failed_at_kills": len(sent) - len(times) - len(failed),
            "p50_ms": round(percentile(times, 50) * 1e3, 1),
            "p99_ms": round(percentile(times, 99) * 1e3, 1),
            "kills": sum(start_s <= each < end_s for each in self.kills_s),
        }
        for role in sorted({each.role for each in self.samples}):
            found[role] = held(self.samples, role, start_s, end_s)
        return found


def judge(report: Report, seen: Seen, *, died: set[int], workers: int) -> None:
    """Compare growth, failures and workers with the targets."""
    fifth_s = seen.seconds / 5
    for role in ROLES:
        second = held(seen.samples, role, fifth_s, 2 * fifth_s)
        last = held(seen.samples, role, 4 * fifth_s, 5 * fifth_s)
        ratios = {each: last[each] / second[each] - 1 for each in _QUANTITIES if second and last}
        target = f"{role}: memory, descriptors and threads grow by at most {_MOST_GROWTH:.0%}"
        measured = ", ".join(
            f"{name.removesuffix('_mb')} {ratio:+.1%}" for name, ratio in ratios.items()
        )
        flat = all(ratio <= _MOST_GROWTH for ratio in ratios.values())
        report.judge(target, measured or "not seen", bool(ratios) and flat)
    lines = [count for at_s, count in seen.metrics_lines if at_s >= fifth_s]
    target = f"/metrics grows by at most {_MOST_GROWTH:.0%}"
    flat = bool(lines) and lines[-1] <= lines[0] * (1 + _MOST_GROWTH)
    report.judge(target, f"from {lines[:1]} to {lines[-1:]} lines", flat)
    failed = Counter(f"{each.kind}: {each.result}" for each in failures(seen.honest, seen.kills_s))
    target = f"no honest request fails, except within {_RECOVERY_S:g} s of a kill"
    report.judge(target, f"{dict(failed)} of {len(seen.honest)}", bool(seen.honest) and not failed)
    wrong = {
        name: count for name, count in seen.hostile.items() if ": 5" in name and ": 503" not in name
    }
    report.judge("no hostile request fails in the service", f"{wrong}", not wrong)
    measured = f"{len(seen.kills_s)} kills, {len(died)} other deaths, {workers} workers at the end"
    target = "workers die only of kills, and are replaced"
    report.judge(target, measured, bool(seen.kills_s) and not died and workers == 2)


def failures(outcomes: Sequence[Outcome], kills_s: Sequence[float]) -> list[Outcome]:
    """Outcomes other than 200, without lost connections and 503 of requests near a kill."""
    return [
        each
        for each in outcomes
        if each.result != "200"
        and not (
            _EXCUSED.intersection((each.result[:3], *each.result.split()))
            and any(
                each.sent_s <= kill_s + _RECOVERY_S and kill_s <= each.sent_s + each.seconds
                for kill_s in kills_s
            )
        )
    ]


def held(samples: Sequence[Sample], role: str, start_s: float, end_s: float) -> dict[str, float]:
    """Medians of each quantity over the samples of a role in a span; empty if there are none."""
    found = [each for each in samples if each.role == role and start_s <= each.at_s < end_s]
    return {
        name: round(median(getattr(each, name) for each in found), 1)
        for name in _QUANTITIES
        if found
    }


def add_to(report: Report, seen: Seen) -> None:
    """Add what was seen in each minute, and tables of fifths."""
    count = round(seen.seconds / seen.minute_s)
    edges_s = [(at * seen.minute_s, (at + 1) * seen.minute_s) for at in range(count)]
    report.measurements["minutes"] = [seen.summary(*edges) for edges in edges_s]
    report.measurements |= {"hostile": dict(seen.hostile), "kills_s": seen.kills_s}
    fifth_s = seen.seconds / 5
    fifths = [seen.summary(at * fifth_s, (at + 1) * fifth_s) for at in range(5)]
    heads = ("fifth", "honest requests", "failed", "failed at kills", "p50 ms", "p99 ms", "kills")
    keys = ("requests", "failed", "failed_at_kills", "p50_ms", "p99_ms", "kills")
    rows = [[str(at + 1), *(f"{each[key]:,}" for key in keys)] for at, each in enumerate(fifths)]
    report.add_table(f"{seen.seconds / 60:g} minutes, in fifths", heads, rows)
    rows = [
        [f"{role}, {title}", *(number(each[role].get(quantity, 0.0)) for each in fifths)]
        for role in ROLES
        for quantity, title in _QUANTITIES.items()
        if all(role in each for each in fifths)
    ]
    report.add_table("median in each fifth", ("process", "1", "2", "3", "4", "5"), rows)
