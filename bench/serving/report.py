"""The same tables for a terminal and for the documentation."""

from collections.abc import Iterable, Sequence

from bench.serving.aims import Aim, aims
from bench.serving.results import Participant, Results
from bench.serving.summary import (
    Row,
    Spread,
    ceiling_by_batch,
    first_answer_s,
    probe,
    rows,
    total_mb,
    worker_mb,
)

_NONE = "–"
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""A title, the heads of the columns, and the cells."""


def render_markdown(results: Results) -> str:
    """Every table in Markdown, after a paragraph on the machine and the method."""
    parts = [heading(results)]
    for title, heads, cells in tables(results):
        rule = ["---"] + ["--:"] * (len(heads) - 1)
        lines = ["| " + " | ".join(line) + " |" for line in (heads, rule, *cells)]
        parts.append("\n".join((f"**{title}**", "", *lines)))
    return "\n\n".join(parts) + "\n"


def render_text(results: Results) -> str:
    """Every table in columns."""
    parts = [heading(results)]
    for title, heads, cells in tables(results):
        lines = [[cell.replace("`", "") for cell in line] for line in (heads, *cells)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
        parts.append(
            "\n".join(
                (title.replace("`", ""), *(_padded(line, widths) for line in lines)),
            )
        )
    return "\n\n".join(parts) + "\n"


def heading(results: Results) -> str:
    """Machine, method, and what to keep in mind."""
    machine, speed = results.machine, probe(results)
    steadiness = (
        ""
        if speed is None
        else f" The machine itself ran the CIFAR-10 network at {_spread(speed)} images/s before "
        "each server's visit."
    )
    networks = "" if machine.gpu is None else f"The networks run on one {machine.gpu}; "
    return (
        f"{networks}{machine.cpu}, {machine.cores} cores, {machine.memory_gb:.0f} GB, Linux "
        f"{machine.kernel}, {results.date}. wrk {machine.wrk} makes the load on the same cores "
        "as the server, with 64 different requests; the ceiling has the cores to "
        f"itself. {results.repeats} repeats of {results.seconds:g} s each, in rotated order: "
        f"median (least to most).{steadiness}"
    )


def tables(results: Results) -> Iterable[Table]:
    """All of them, those without content left out."""
    made = rows(results)
    for workload, title in results.workloads.items():
        here = [row for row in made if row.workload == workload]
        if here:
            yield title, _ROW_HEADS, [_row(row) for row in here]
    yield from _ceilings(results, made)
    participants = [_participant(results, each) for each in results.participants]
    yield "Contestants", _PARTICIPANT_HEADS, participants
    reached = [_aim(aim) for aim in aims(results)]
    if reached:
        yield (
            "Aims (rates: each at its own best; `/explain` beside `/predict`: by repeats)",
            _AIM_HEADS,
            reached,
        )


_AIM_HEADS = ("aim", "reached", "wanted", "the ceiling would reach", "")
_ROW_HEADS = (
    "contestant",
    "connections",
    "images/s",
    "to the ceiling",
    "to the best peer",
    "p50 ms",
    "p99 ms",
    "p99/p50",
    "mean batch",
    "errors",
)
_PARTICIPANT_HEADS = ("contestant", "first answer s", "largest worker MB", "all MB", "how")


def _row(row: Row) -> Sequence[str]:
    return (
        row.participant.title + (" (!)" if row.errors else ""),
        str(row.connections),
        _spread(row.images_per_s),
        _ratio(row.to_ceiling, percent=True),
        _ratio(row.to_best_peer),
        _number(row.p50_ms.median),
        _spread(row.p99_ms),
        f"{row.tail:.1f}",
        _NONE if row.mean_batch is None else f"{row.mean_batch:.1f}",
        str(row.errors),
    )


def _ceilings(results: Results, made: Sequence[Row]) -> Iterable[Table]:
    """ONNX Runtime alone by batch size, and beside it the batches that our queue made."""
    for model in dict.fromkeys(results.models.values()):
        by_batch = ceiling_by_batch(results, model)
        if not by_batch:
            continue
        cells = [(f"ONNX Runtime alone, batch {batch}", _spread(spread), _NONE)
                 for batch, spread in by_batch.items()]  # fmt: skip
        for row in made:
            if results.models[row.workload] != model or row.mean_batch is None:
                continue
            # The largest measured batch that is no larger than ours: what it could have made.
            nearest = max(batch for batch in by_batch if batch <= max(row.mean_batch, 1))
            share = row.images_per_s.median / by_batch[nearest].median
            title = f"{row.participant.title}, {results.workloads[row.workload].split(', ')[1]}"
            title += f", {row.connections} connections: mean batch {row.mean_batch:.1f}"
            cells.append((title, _spread(row.images_per_s), f"{share:.0%} of batch {nearest}"))
        yield f"Batches, {model}", ("", "images/s", "to the ceiling at that batch"), cells


def _participant(results: Results, participant: Participant) -> Sequence[str]:
    versions = ", ".join(f"{name} {number}" for name, number in participant.versions.items())
    failure = f"; failed: {participant.failure}" if participant.failure else ""
    return (
        participant.title,
        _optional(first_answer_s(results, participant.name)),
        _optional(worker_mb(results, participant.name)),
        _optional(total_mb(results, participant.name)),
        f"{participant.setup}{f' ({versions})' if versions else ''}{failure}",
    )


def _aim(aim: Aim) -> Sequence[str]:
    return (
        aim.title,
        f"{aim.value:.3g}{aim.unit}{_least_to_most(aim.spread)}",
        f"{'≤' if aim.at_most else '≥'} {aim.limit:g}{aim.unit}",
        _NONE if aim.bound is None else f"{aim.bound:.3g}{aim.unit}",
        "met" if aim.met else "missed",
    )


def _least_to_most(spread: Spread | None) -> str:
    return "" if spread is None else f" ({spread.least:.3g} to {spread.most:.3g})"


def _optional(spread: Spread | None) -> str:
    return _NONE if spread is None else _spread(spread)


def _spread(spread: Spread) -> str:
    if spread.least == spread.most:
        return _number(spread.median)
    return f"{_number(spread.median)} ({_number(spread.least)} to {_number(spread.most)})"


def _number(value: float) -> str:
    """Three digits, and whole numbers from 100 up."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ratio(value: float | None, *, percent: bool = False) -> str:
    if value is None:
        return _NONE
    return f"{value:.0%}" if percent else f"{value:.2f}×"


def _padded(line: Sequence[str], widths: Sequence[int]) -> str:
    """The first and the last column begin at the left; numbers end at the right."""
    outer = (0, len(line) - 1)
    cells = [
        cell.ljust(width) if column in outer else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()
