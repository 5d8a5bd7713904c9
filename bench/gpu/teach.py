"""A large teacher and small networks distilled from it, each as long as its time allows.

Every network becomes a run folder in `runs/`, which `limelight export` takes on any machine. The
test set is not read here: an export does that.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from pydantic import JsonValue

from bench.gpu.pace import seconds_per_step
from bench.gpu.results import Deadline, Results
from bench.gpu.scale import Lesson, Scale, School
from pipeline.data.dataset_cache import cached_file
from pipeline.data.registry import published_names
from pipeline.runs.pretrained import distil_from
from pipeline.runs.run_folder import CHECKPOINT, CONFIG, EPOCHS, HISTORY
from pipeline.runs.run_plan import RunPlan, plan_run
from pipeline.training.inference import multiply_accumulates
from pipeline.training.recipe import Recipe

RUNS = "runs"
KEPT = (CONFIG, EPOCHS, CHECKPOINT, HISTORY)
"""Files of a run that an export and a report read."""
# Of what is left after compiling, the share that is planned: not every epoch is as fast.
_SAFE = 0.9


def run(
    scale: Scale, device: torch.device, results: Results, deadline: Deadline, folder: Path
) -> None:
    """Train the teacher and the pupils of each school, while there is time."""
    for school in scale.schools:
        if school.data in published_names() and not cached_file(school.data).is_file():
            results.add(school.data, f"not trained: there is no {cached_file(school.data)}")
            continue
        teacher = folder / RUNS / f"{school.data}-teacher"
        step = partial(train_run, school, school.teacher, device, (), teacher)
        _within(deadline, school.teacher.seconds, teacher.name, step, results)
        for name, lesson in school.pupils.items():
            step = partial(train_run, school, lesson, device, (teacher,), folder / RUNS / name)
            _within(deadline, lesson.seconds, name, step, results)


def _within(
    deadline: Deadline,
    seconds: float,
    name: str,
    step: Callable[[], dict[str, JsonValue]],
    results: Results,
) -> None:
    """Train a run, if there is time for it."""
    if deadline.left_s < seconds:
        results.add(name, f"not trained: {seconds:.0f} s needed")
        return
    found = results.attempt(name, step)
    if found is not None:
        results.add(name, found)


def train_run(
    school: School,
    lesson: Lesson,
    device: torch.device,
    teachers: Sequence[Path],
    folder: Path,
) -> dict[str, JsonValue]:
    """Train a run of about the lesson's seconds in `folder`; what came of it.

    Raises:
        PipelineError: see `plan_run`, `distil_from` and `RunPlan.train`.
    """
    started = time.perf_counter()
    # torch.compile gives up after eight kinds of network, and this school has as many.
    torch.compiler.reset()
    recipe = Recipe.load(school.recipe, **{**lesson.changes, "epochs": 1})
    plan = plan_run(school.data, recipe_name=school.recipe, recipe=recipe, seed=0, device=device)
    plan = distil_from(plan, teachers)
    pace_s = seconds_per_epoch(plan)
    left_s = lesson.seconds - (time.perf_counter() - started)
    epochs = max(2, int(_SAFE * left_s / pace_s))
    config = plan.config.model_copy(update={"recipe": recipe.but(epochs=epochs)})
    record = replace(plan, config=config).train(folder)
    network = plan.trainer().network.to("cpu")
    image = torch.zeros((1, *plan.dataset.train.images.shape[1:]), dtype=torch.uint8)
    return {
        "epochs": epochs,
        "best epoch": record.best.epoch,
        "validation accuracy": record.best.validation_accuracy,
        "validation log loss": record.best.validation_loss,
        "multiply-accumulates": multiply_accumulates(network, config.normalisation, image),
        "seconds": time.perf_counter() - started,
        "seconds of an epoch": pace_s,
    }


def seconds_per_epoch(plan: RunPlan) -> float:
    """Compile the plan's network, and time some steps and a validation of it."""
    trainer, validation = plan.trainer(), plan.data.validation
    steps_s = trainer.steps_per_epoch * seconds_per_step(trainer)
    trainer.validate(validation)
    started = time.perf_counter()
    trainer.validate(validation)
    return steps_s + time.perf_counter() - started
