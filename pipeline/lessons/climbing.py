"""Train a network of the ladder, and evaluate it on the test set."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.atomic_files import write_text
from pipeline.data.registry import Dataset, load_dataset
from pipeline.evaluation.tta import evaluate_tta
from pipeline.lessons.ladder import FAILING_SEEDS, Climbed, Rung
from pipeline.runs.run_folder import HISTORY, read_epochs
from pipeline.runs.run_plan import complete_run, plan_run
from pipeline.runs.tensor_files import read_tensors
from pipeline.training.activation_stats import ActivationStatistics
from pipeline.training.callbacks import Callback
from pipeline.training.inference import evaluate
from pipeline.training.recipe import Recipe


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


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())


def _dead(folder: Path) -> float:
    history, _ = read_tensors(folder / HISTORY)
    # The last row is the logits, which have no ReLU.
    return float(history["activations.near_zero"][:-1, -1].max())
