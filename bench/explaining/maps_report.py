"""What `bench.maps` measured, as JSON and as Markdown."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median

from pydantic import BaseModel, ConfigDict

from bench.explaining.subject import Runtime


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Timing(_Record):
    """One way at one setting."""

    model: str
    threads: int
    batch: int
    masks: bool
    """Whether it belongs to those that mask the image."""
    way: str
    runtime: Runtime
    maps: int
    images: int
    ms: list[float]
    """Of a whole batch, once for each repeat."""

    @property
    def table(self) -> tuple[str, int, int, bool]:
        """What is compared stands in one table."""
        return self.model, self.threads, self.batch, self.masks


class Report(_Record):
    """The JSON file."""

    date: str
    processor: str
    cores: int
    versions: dict[str, str]
    repeats: int
    seconds: float
    timings: list[Timing]

    @classmethod
    def read(cls, file: Path) -> "Report":
        """What `write` wrote.

        Raises:
            ValidationError: it is of another form.
        """
        return cls.model_validate_json(file.read_text(encoding="utf-8"))

    def write(self, folder: Path) -> None:
        """`folder`/maps.json, and maps.md beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        json_file = folder / "maps.json"
        json_file.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        json_file.with_suffix(".md").write_text(render(self), encoding="utf-8")


_HEADS = (
    "way", "runs on", "maps an image", "images looked at", "ms", "× no map, same runtime",
    "× no map, ONNX Runtime", "µs a map",
)  # fmt: skip


def render(report: Report) -> str:
    """A table for each model, number of threads and batch."""
    return "\n".join([_heading(report), *_tables(report)])


def _heading(report: Report) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return (
        f"{report.processor}, {report.cores} cores, {report.date}; {versions}. "
        f"{report.repeats} repeats of {report.seconds:g} s or one call, in alternating order: "
        "median (least to most). Milliseconds are those of a batch, from its pixels on; ratios are "
        "of times in the same repeat.\n"
    )


def _tables(report: Report) -> Iterator[str]:
    for (model, threads, batch, masks), group in groupby(report.timings, lambda each: each.table):
        timings = list(group)
        plain = {each.runtime: each for each in timings if each.maps == 0}
        what = "masked images" if masks else "one pass, or one and its gradients"
        title = f"**{model}, {what}: batch {batch}, {_count(threads)}**"
        rule = ("---", "---", *(["--:"] * (len(_HEADS) - 2)))
        lines = [_HEADS, rule, *(_cells(each, plain) for each in timings)]
        yield f"{title}\n\n" + "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _cells(timing: Timing, plain: dict[Runtime, Timing]) -> tuple[str, ...]:
    each_us = [1000 * ms / (timing.batch * timing.maps) for ms in timing.ms if timing.maps]
    return (
        timing.way,
        timing.runtime,
        str(timing.maps),
        str(timing.images),
        _spread(timing.ms, lambda ms: f"{ms:.3g}" if ms < 100 else f"{ms:,.0f}"),
        _spread(ratios(timing, plain[timing.runtime]), lambda ratio: f"{ratio:.2f}"),
        _spread(ratios(timing, plain["ONNX Runtime"]), lambda ratio: f"{ratio:.2f}"),
        f"{median(each_us):,.0f}" if each_us else "–",
    )


def ratios(timing: Timing, base: Timing) -> list[float]:
    """How many times as long, repeat by repeat."""
    return [one / other for one, other in zip(timing.ms, base.ms, strict=True)]


def _spread(values: Sequence[float], text: Callable[[float], str]) -> str:
    return f"{text(median(values))} ({text(min(values))} to {text(max(values))})"


def _count(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"
