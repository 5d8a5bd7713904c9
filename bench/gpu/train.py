"""Seconds to an accuracy on CIFAR-10's test set, counted as airbench counts them.

Keller Jordan's cifar10-airbench publishes the seconds in which an A100 trains to 94 and to 96 % of
the test set, with test-time augmentation. Its clock stands still while kernels are compiled and
while the test set is evaluated; so does ours. Ours includes uploading the images, which airbench's
does not.

Which training reaches a mark is decided on a validation split. That one is then trained on all
training images, once a seed, and its accuracy on the test set is read once each.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean
from typing import Self

import torch

from bench.gpu.pace import seconds_per_step, wait
from bench.gpu.results import Deadline, Results
from bench.gpu.scale import Scale
from models.normalization import Normalisation
from pipeline.data.registry import Dataset, Split, load_dataset, split_validation
from pipeline.data.stored_images import in_batches
from pipeline.evaluation.tta import evaluate_tta
from pipeline.training.device import autocast
from pipeline.training.recipe import Recipe
from pipeline.training.trainer import Trainer

AIRBENCH = {0.94: 2.59, 0.96: 27.3}
"""Seconds on an A100 that cifar10-airbench publishes (its README), by accuracy."""
_VALIDATION = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """One training: what it took, and the share of held-out images that it gets right, with TTA."""

    seed: int
    seconds: float
    accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """Images to learn from, images to evaluate on, and where."""

    fit: Split
    held_out: Split
    classes: tuple[str, ...]
    normalisation: Normalisation
    device: torch.device

    @classmethod
    def of(cls, fit: Split, held_out: Split, dataset: Dataset, device: torch.device) -> Self:
        """The course of one split, with the statistics of its images."""
        return cls(
            fit=fit,
            held_out=held_out,
            classes=dataset.classes,
            normalisation=Normalisation.of(in_batches(fit.images)),
            device=device,
        )

    def train(self, recipe: Recipe, *, seed: int) -> Timed:
        """Train from nothing to the end of the schedule, then evaluate once."""
        wait(self.device)
        started = time.perf_counter()
        trainer = self.trainer(recipe, seed=seed)
        for _ in range(trainer.epochs):
            for _ in trainer.run_epoch():
                pass
        wait(self.device)
        seconds = time.perf_counter() - started
        with autocast(self.device):
            logits = evaluate_tta(
                trainer.evaluated,
                self.held_out.images,
                self.normalisation,
                self.device,
                recipe.augmentation,
            )
        right = logits.argmax(1) == torch.from_numpy(self.held_out.labels)
        return Timed(seed=seed, seconds=seconds, accuracy=float(right.float().mean()))

    def trainer(self, recipe: Recipe, *, seed: int = 0) -> Trainer:
        """The recipe's training of these images."""
        return Trainer(
            recipe,
            self.fit,
            classes=self.classes,
            normalisation=self.normalisation,
            device=self.device,
            seed=seed,
        )


def run(scale: Scale, device: torch.device, results: Results, deadline: Deadline) -> None:
    """Find the cheapest candidate of each mark, and publish its seconds."""
    dataset = load_dataset(scale.data)
    fit, validation = split_validation(dataset.train, _VALIDATION, 0, dataset.classes)
    choosing = Course.of(fit, validation, dataset, device)
    publishing = Course.of(dataset.train, dataset.test, dataset, device)
    for mark, candidates in scale.marks.items():
        recipes = {
            f"{mark:.0%}, {name}": Recipe.load(scale.recipe, **changes)
            for name, changes in candidates.items()
        }
        step = partial(reach, mark, recipes, choosing, results, deadline)
        chosen = results.attempt(f"{mark:.0%}", step)
        if chosen is not None:
            read = partial(publish, chosen, recipes[chosen], publishing, results, deadline)
            read = partial(read, seeds=scale.seeds, published=AIRBENCH.get(mark))
            results.attempt(f"{chosen}, on the test set", read)


def reach(
    mark: float, recipes: Mapping[str, Recipe], course: Course, results: Results, deadline: Deadline
) -> str | None:
    """Try the candidates in turn; the name of the first that reaches `mark`, if one does."""
    for name, recipe in recipes.items():
        expected_s = expected_seconds(recipe, course)
        if expected_s > deadline.left_s:
            results.add(name, f"not tried: it takes {expected_s:.0f} s")
            return None
        tried = course.train(recipe, seed=0)
        reached = tried.accuracy >= mark
        results.add(f"{name}, on validation images", asdict(tried) | {"reached": reached})
        if reached:
            return name
    results.add(f"{mark:.0%}", "no candidate reached it on validation images")
    return None


def publish(
    name: str,
    recipe: Recipe,
    course: Course,
    results: Results,
    deadline: Deadline,
    *,
    seeds: int,
    published: float | None,
) -> None:
    """Train on all training images, at least once and for as many seeds as there is time."""
    expected_s = expected_seconds(recipe, course)
    runs: list[Timed] = []
    for seed in range(seeds):
        if runs and expected_s > deadline.left_s:
            break
        runs.append(course.train(recipe, seed=seed))
        results.add(
            f"{name}, on the test set",
            {
                "mean seconds": fmean(each.seconds for each in runs),
                "airbench's published seconds on an A100": published,
                "mean accuracy": fmean(each.accuracy for each in runs),
                "runs": [asdict(each) for each in runs],
            },
        )


def expected_seconds(recipe: Recipe, course: Course) -> float:
    """Seconds that a training takes, once its network is compiled."""
    steps = recipe.epochs * (len(course.fit) // recipe.batch_size)
    return steps * seconds_per_step(course.trainer(recipe))
