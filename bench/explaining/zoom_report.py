"""What `bench.zoom` found, as JSON and as Markdown."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from pydantic import BaseModel, ConfigDict

from bench.explaining.estimates import Estimate, mean, share
from bench.explaining.looks import Looks, rights


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Row(_Record):
    """Scenes whose objects are of one size, cut by one `cut`."""

    side: int
    """Of the object, in pixels."""
    cut: float
    """Side of the closer look as a share of the box's: `limelight.explanations.zoom`."""
    anew: float
    """Share of the scenes that the service looked at again."""
    first: Estimate
    closer: Estimate
    surer: Estimate
    """Accuracy of the first look, of the closer one, and of the more confident of both."""
    gained: Estimate
    """Accuracy of the closer look less that of the first, on the same scenes."""
    alone: Estimate
    """Accuracy on the object cut out by its box: what the closer look could come to."""
    pointed: Estimate
    chance: float
    pointed_closer: Estimate
    chance_closer: float
    """The pointing game and what chance makes of it, on both looks."""
    overlap: Estimate
    overlap_closer: Estimate


class Report(_Record):
    """The JSON file."""

    date: str
    model: str
    data: str
    size: int
    """Of the scenes, in pixels."""
    scenes: int
    """For each row."""
    seed: int
    rows: list[Row]

    def write(self, folder: Path, name: str, markdown: str) -> None:
        """`folder`/NAME.json and .md."""
        folder.mkdir(parents=True, exist_ok=True)
        json_file = folder / f"{name}.json"
        json_file.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        json_file.with_suffix(".md").write_text(markdown, encoding="utf-8")


def summarise(looks: Sequence[Looks], *, side: int, cut: float) -> Row:
    """What the looks at two scenes or more come to."""
    first = [each.first for each in looks]
    closer = [each.closer for each in looks]
    gains = [float(each.closer.right) - float(each.first.right) for each in looks]
    return Row(
        side=side,
        cut=cut,
        anew=sum(each.anew for each in looks) / len(looks),
        first=share(rights(first)),
        closer=share(rights(closer)),
        surer=share(rights(each.surer for each in looks)),
        gained=mean(gains),
        alone=share([each.alone for each in looks]),
        pointed=share([look.pointed for look in first]),
        chance=sum(look.chance for look in first) / len(looks),
        pointed_closer=share([look.pointed for look in closer]),
        chance_closer=sum(look.chance for look in closer) / len(looks),
        overlap=mean([look.overlap for look in first]),
        overlap_closer=mean([look.overlap for look in closer]),
    )


def render(report: Report) -> str:
    """Accuracies in one table, places in another."""
    answers = (
        "object's side", "looked again", "first look", "closer look", "gained",
        "the more confident", "object cut out",
    )  # fmt: skip
    places = (
        "object's side", "peak in the object", "by chance", "IoU of the boxes",
        "closer: peak", "by chance", "IoU",
    )  # fmt: skip
    accuracy = [
        (
            f"{row.side} px", f"{row.anew:.0%}", _percent(row.first), _percent(row.closer),
            _points(row.gained), _percent(row.surer), _percent(row.alone),
        )
        for row in report.rows
    ]  # fmt: skip
    where = [
        (
            f"{row.side} px", _percent(row.pointed), f"{row.chance:.1%}", _ratio(row.overlap),
            _percent(row.pointed_closer), f"{row.chance_closer:.1%}", _ratio(row.overlap_closer),
        )
        for row in report.rows
    ]  # fmt: skip
    tables = f"{_table(answers, accuracy)}\n{_table(places, where)}"
    return f"{_heading(report)} in brackets the limits of 95 % confidence.\n\n{tables}"


def render_cuts(report: Report) -> str:
    """Accuracy of the closer look and of the more confident one, by the cut."""
    sides = sorted({row.side for row in report.rows})
    found = {(row.cut, row.side): row for row in report.rows}
    cuts = sorted({row.cut for row in report.rows})
    heads = ("cut", *(f"{side} px" for side in sides), "mean")
    firsts = [found[cuts[0], side].first.value for side in sides]
    base = ("no closer look", *(f"{value:.1%}" for value in (*firsts, fmean(firsts))))
    lines = [base]
    for cut in cuts:
        closer = [found[cut, side].closer.value for side in sides]
        surer = [found[cut, side].surer.value for side in sides]
        pairs = zip((*closer, fmean(closer)), (*surer, fmean(surer)), strict=True)
        lines.append((f"{cut:.2f}", *(f"{one:.1%} / {other:.1%}" for one, other in pairs)))
    legend = "accuracy of the closer look / of the more confident of both."
    return f"{_heading(report)} {legend}\n\n{_table(heads, lines)}"


def _heading(report: Report) -> str:
    return (
        f"{report.model}, {report.data}, {report.date}: {report.scenes} scenes of {report.size} "
        f"by {report.size} pixels for each size of the object, seed {report.seed};"
    )


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["--:"] * len(heads)
    return "".join("| " + " | ".join(line) + " |\n" for line in (heads, rule, *lines))


def _percent(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} ({estimate.low:.1%} to {estimate.high:.1%})"


def _points(estimate: Estimate) -> str:
    value, low, high = (100 * each for each in (estimate.value, estimate.low, estimate.high))
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"


def _ratio(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
