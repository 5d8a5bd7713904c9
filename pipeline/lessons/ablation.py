"""Ablation: train a recipe again with one network option changed at a time."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError, RunError
from pipeline.training.recipe import Recipe

Choice = tuple[str, str]
"""A field of `NetworkOptions` and a value for it."""

CHOICES: dict[str, tuple[str, ...]] = {
    "order": ("norm-relu", "relu-norm"),
    "norm": ("batch", "lesson", "group", "layer", "none"),
    "pool": ("average", "max"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Validation accuracies of a variant, one for each seed; none if training failed."""

    change: str
    accuracies: tuple[float, ...]
    failure: str | None = None

    @property
    def mean(self) -> float:
        """Mean over the seeds; 0 for a failure."""
        return statistics.fmean(self.accuracies) if self.accuracies else 0.0


def variants(recipe: Recipe, fields: Iterable[str]) -> list[tuple[str, Recipe]]:
    """List the unchanged recipe, and one with each other value of each field: (change, recipe).

    Raises:
        PipelineError: a field is not in `CHOICES`.

    """
    found = [("as it is", recipe)]
    for name in fields:
        if name not in CHOICES:
            raise PipelineError(f"nothing to ablate in {name!r}; there are: {', '.join(CHOICES)}")
        present = getattr(recipe.network, name)
        for value in CHOICES[name]:
            if value != present:
                found.append((f"{name} = {value}", recipe.but(**{f"network__{name}": value})))
    return found


def ablate(
    variants: Iterable[tuple[str, Recipe]],
    seeds: Iterable[int],
    train: Callable[[Recipe, int, Path], float],
    folder: Path,
) -> list[Outcome]:
    """Train each of `variants` with every seed; `train` returns the best validation accuracy.

    A variant that cannot be built, or whose loss diverges, is an outcome, too; a full disk is none.
    """
    seeds, outcomes = list(seeds), []
    for change, variant in variants:
        accuracies: list[float] = []
        failure = None
        for seed in seeds:
            name = f"{change.replace(' = ', '-').replace(' ', '-')}-{seed}"
            try:
                accuracies.append(train(variant, seed, folder / name))
            except RunError as error:
                failure = str(error)
                break
        outcomes.append(Outcome(change=change, accuracies=tuple(accuracies), failure=failure))
    return outcomes


def as_markdown(outcomes: list[Outcome]) -> str:
    """Write a table that compares each variant with the unchanged recipe, seed by seed."""
    base = outcomes[0].accuracies
    lines = [
        "| variant | validation accuracy | lowest to highest | difference, seed by seed |",
        "|---|---|---|---|",
    ]
    for outcome in outcomes:
        if outcome.failure is not None:
            lines.append(f"| {outcome.change} | failed: {outcome.failure} | | |")
            continue
        low, high = min(outcome.accuracies), max(outcome.accuracies)
        lines.append(
            f"| {outcome.change} | {outcome.mean:.1%} | {low:.1%} to {high:.1%} | "
            f"{_difference(outcome.accuracies, base)} |"
        )
    return "\n".join(lines) + "\n"


def _difference(ours: Sequence[float], base: Sequence[float]) -> str:
    """Write the mean difference between runs of the same seed, and the range."""
    if len(ours) != len(base) or ours is base:  # a training of the base failed
        return ""
    points = [100 * (one - other) for one, other in zip(ours, base, strict=True)]
    spread = f" ({min(points):+.1f} to {max(points):+.1f})" if len(points) > 1 else ""
    return f"{statistics.fmean(points):+.1f} points{spread}"
