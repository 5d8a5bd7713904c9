"""The networks of the lessons, each compared with the accuracy in its lesson.

The accuracies are from fast.ai's lessons: chapter 13 of the fourth edition (digits), and the
CIFAR-10 notebook of lesson 7 (2018). All are on the test set, which is used once, for the epoch
that the validation split chose.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.data.registry import Dataset, load_dataset
from pipeline.errors import PipelineError
from pipeline.evaluation.tta import evaluate_tta
from pipeline.runs.atomic_files import write_text
from pipeline.runs.run_setup import complete_run, plan_run
from pipeline.runs.run_writer import HISTORY, read_epochs
from pipeline.runs.tensor_files import read_tensors
from pipeline.training.activation_stats import ActivationStatistics
from pipeline.training.callbacks import Callback
from pipeline.training.inference import evaluate
from pipeline.training.recipe import Recipe

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


def climb(
    rung: Rung,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    callbacks: Iterable[Callback] = (),
    load: Callable[[str], Dataset] = load_dataset,
) -> Climbed:
    """Train a rung in `folder`, unless that was done before, and evaluate it on the test set.

    A rung that must fail is trained `FAILING_SEEDS` times, and the median run counts. `load` loads
    a data set by name.

    Raises:
        PipelineError: see `plan_run` and `complete_run`.

    """
    dataset = load(Recipe.load(rung.recipe, **rung.changes).data)
    if not rung.fails:
        return _climb_once(rung, folder, seed, device, callbacks, dataset)
    runs = [
        _climb_once(rung, folder / f"seed-{each}", each, device, (), dataset)
        for each in range(seed, seed + FAILING_SEEDS)
    ]
    median = sorted(runs, key=lambda run: run.accuracy)[len(runs) // 2]
    return replace(median, seeds=len(runs), failed=sum(run.is_chance for run in runs))


def _climb_once(
    rung: Rung,
    folder: Path,
    seed: int,
    device: torch.device,
    callbacks: Iterable[Callback],
    dataset: Dataset,
) -> Climbed:
    recipe = Recipe.load(rung.recipe, **rung.changes)
    plan = plan_run(
        recipe.data,
        recipe_name=rung.recipe,
        recipe=recipe,
        seed=seed,
        device=device,
        dataset=dataset,
    )
    watching = {"activations": ActivationStatistics()}
    run = complete_run(plan, folder, list(callbacks), watching=watching)
    result = folder / "rung.json"
    if result.is_file():
        return Climbed(**json.loads(result.read_text()))
    network = run.network.to(device)
    test, normalisation = plan.dataset.test, run.config.normalisation
    labels = torch.from_numpy(test.labels)
    logits = evaluate(network, test.images, normalisation, device)
    choice = recipe.augmentation
    looked = evaluate_tta(network, test.images, normalisation, device, choice)
    climbed = Climbed(
        name=rung.name,
        lesson=rung.lesson,
        lesson_epochs=rung.lesson_epochs,
        lesson_views=rung.lesson_views,
        fails=rung.fails,
        epochs=recipe.epochs,
        accuracy=_accuracy(logits, labels),
        views_accuracy=_accuracy(looked, labels),
        log_loss=float(nn.functional.cross_entropy(logits, labels)),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        # Of all epochs, also those before an interruption.
        seconds=sum(epoch.seconds for epoch in read_epochs(folder)),
        dead=_dead(folder),
        classes=len(plan.dataset.classes),
    )
    write_text(result, json.dumps(asdict(climbed), indent=2) + "\n")
    return climbed


def climb_all(
    names: Iterable[str],
    folder: Path,
    climb_one: Callable[[Rung, Path], Climbed],
) -> list[Climbed]:
    """Train the rungs whose recipes are named, or all, in order.

    Raises:
        PipelineError: there is no such rung.

    """
    wanted = set(names)
    known = {rung.recipe for rung in LADDER}
    if wanted - known:
        raise PipelineError(
            f"no rung {', '.join(sorted(wanted - known))}; there are: {', '.join(sorted(known))}"
        )
    return [
        climb_one(rung, folder / rung.name.replace(",", "").replace(" ", "-"))
        for rung in LADDER
        if not wanted or rung.recipe in wanted
    ]


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


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())


def _dead(folder: Path) -> float:
    history, _ = read_tensors(folder / HISTORY)
    # The last row is the logits, which have no ReLU.
    return float(history["activations.near_zero"][:-1, -1].max())
