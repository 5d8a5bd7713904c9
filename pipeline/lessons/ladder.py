"""The networks of the lessons, each compared with the accuracy in its lesson.

The accuracies are from fast.ai's lessons: chapter 13 of the fourth edition (digits), and the
CIFAR-10 notebook of lesson 7 (2018). All are on the test set, which is used once, for the epoch
that the validation split chose.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.errors import PipelineError
from pipeline.lessons.text_ladder import TEXT_LADDER

CHANCE_MARGIN = 0.05
"""Margin over guessing within which a run counts as failed."""
FAILING_SEEDS = 5
"""Number of runs to show a failure: at such rates, some seeds train by luck."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """A recipe, and the accuracy of that network in the lesson."""

    name: str
    recipe: str
    lesson: float | None
    """Its accuracy; None if the lesson says only that the network trains."""
    lesson_epochs: int
    lesson_views: bool = False
    """True if the lesson's accuracy is with test-time augmentation."""
    fails: bool = False
    changes: Mapping[str, object] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Name of the folder of its run."""
        return self.name.replace(",", "").replace(" ", "-")


_CONSTANT: dict[str, object] = {"schedule": {"kind": "constant", "peak": 0.06}}

LADDER = (
    Rung(name="three-or-seven", recipe="three-or-seven", lesson=0.990, lesson_epochs=2),
    Rung(
        name="simple-cnn, constant 0.06, batches of 64",
        recipe="simple-cnn",
        lesson=0.11,
        lesson_epochs=1,
        fails=True,
        changes=_CONSTANT | {"batch_size": 64},
    ),
    Rung(
        name="simple-cnn, constant 0.06, batches of 512",
        recipe="simple-cnn",
        lesson=0.11,
        lesson_epochs=1,
        fails=True,
        changes=_CONSTANT,
    ),
    Rung(name="simple-cnn", recipe="simple-cnn", lesson=None, lesson_epochs=1),
    Rung(
        name="simple-cnn-bn, 1 epoch",
        recipe="simple-cnn-bn",
        lesson=0.986,
        lesson_epochs=1,
        changes={"epochs": 1, "batch_size": 256, "schedule__peak": 0.03},
    ),
    Rung(name="simple-cnn-bn", recipe="simple-cnn-bn", lesson=0.992, lesson_epochs=5),
    Rung(name="simplenet", recipe="simplenet", lesson=0.469, lesson_epochs=4),
    Rung(name="convnet", recipe="convnet", lesson=0.60, lesson_epochs=6),
    Rung(name="conv-bn-net", recipe="conv-bn-net", lesson=0.646, lesson_epochs=6),
    Rung(name="conv-bn-net-deep", recipe="conv-bn-net-deep", lesson=0.646, lesson_epochs=4),
    Rung(name="resnet-max", recipe="resnet-max", lesson=0.823, lesson_epochs=32),
    Rung(
        name="resnet2",
        recipe="resnet2",
        lesson=0.849,
        lesson_epochs=37,
        lesson_views=True,
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Climbed:
    """Result of a rung."""

    name: str
    lesson: float | None
    lesson_epochs: int
    lesson_views: bool
    fails: bool
    epochs: int
    accuracy: float
    """Accuracy on the test set without TTA."""
    views_accuracy: float
    """Accuracy on the test set with TTA."""
    log_loss: float
    parameters: int
    seconds: float
    dead: float
    """The largest share of activations near zero in any hidden layer, at the end."""
    classes: int
    seeds: int = 1
    """Number of runs; if there are several, all other fields are of the median run."""
    failed: int = 0
    """Number of runs that were no better than chance."""

    @property
    def is_chance(self) -> bool:
        """True if the accuracy is about that of guessing."""
        return self.accuracy <= 1 / self.classes + CHANCE_MARGIN

    @property
    def passed(self) -> bool:
        """True if the run reaches the lesson's accuracy, or fails as in the lesson."""
        if self.fails:
            return self.is_chance
        if self.lesson is None:
            return not self.is_chance
        # The lessons print three digits.
        ours = self.views_accuracy if self.lesson_views else self.accuracy
        return self.epochs <= self.lesson_epochs and round(ours, 3) >= self.lesson


def find_rungs(names: Iterable[str]) -> list[Rung]:
    """Return the rungs whose recipes are named, or all, in order.

    Raises:
        PipelineError: there is no such rung.

    """
    wanted = set(names)
    known = {rung.recipe for rung in LADDER}
    if wanted - known:
        others = [rung.recipe for rung in TEXT_LADDER]
        raise PipelineError(
            f"no rung {', '.join(sorted(wanted - known))}; there are: "
            f"{', '.join([*sorted(known), *others])}"
        )
    return [rung for rung in LADDER if not wanted or rung.recipe in wanted]


def as_markdown(climbed: Iterable[Climbed]) -> str:
    """Write a table that compares the results with the lessons."""
    lines = [
        "| network | parameters | lesson | its epochs | ours | epochs | with TTA | time "
        "| near zero | reached |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for rung in climbed:
        if rung.lesson is None:
            lesson = "trains"
        else:
            lesson = f"{rung.lesson:.1%}{' (TTA)' if rung.lesson_views else ''}"
        expected = f"{lesson}, must fail" if rung.fails else lesson
        name = rung.name
        if rung.seeds > 1:
            name += f" (median of {rung.seeds} seeds, {rung.failed} fail)"
        lines.append(
            f"| {name} | {rung.parameters:,} | {expected} | {rung.lesson_epochs} | "
            f"{rung.accuracy:.1%} | {rung.epochs} | {rung.views_accuracy:.1%} | "
            f"{rung.seconds:.0f} s | {rung.dead:.0%} | {'yes' if rung.passed else '**no**'} |"
        )
    return "\n".join(lines) + "\n"
