"""Shared by the commands that train: their options, and the training run itself."""

import tomllib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.cli.console import say
from pipeline.cli.training_bar import training_bar
from pipeline.data.registry import Dataset, imbalance_report
from pipeline.errors import PipelineError
from pipeline.training.callbacks import Callback
from pipeline.training.small_data import ADAPTED

if TYPE_CHECKING:
    from pipeline.runs.run_setup import RunPlan
    from pipeline.training.activation_stats import ActivationStatistics
    from pipeline.training.distributed import World

Out = Annotated[Path | None, typer.Option(help="run folder; default runs/NAME-TIME")]
Seed = Annotated[int, typer.Option(help="of the split, the weights and the augmentation")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="auto uses a GPU if there is one")
]
Epochs = Annotated[int | None, typer.Option(help="instead of the recipe's")]
BatchSize = Annotated[int | None, typer.Option(help="instead of the recipe's")]
LearningRate = Annotated[
    str | None,
    typer.Option("--lr", help="peak rate; or one for each layer group, 'a,b,c'; or 'first,last'"),
]
ImageSize = Annotated[str, typer.Option(help="side of your own images in pixels, or HEIGHTxWIDTH")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="any option of the recipe, with priority: optimizer.kind=muon, ema_decay=0.99",
    ),
]
Teachers = Annotated[
    list[Path] | None,
    typer.Option(
        "--teacher",
        help="distil from this artefact or run instead of the labels; may be repeated",
    ),
]
ClassWeights = Annotated[
    bool, typer.Option("--class-weights", help="weight each class by the inverse of its frequency")
]
Track = Annotated[
    list[str] | None, typer.Option(help="also write to tensorboard or mlflow; may be repeated")
]
Report = Annotated[bool, typer.Option("--report/--no-report", help="write report.html at the end")]


_WITH_RESUME = frozenset({"resume", "device", "track", "report"})
"""Parameters of `limelight train` that an interrupted run does not have."""


def parse_rates(text: str | None) -> float | tuple[float, ...] | None:
    """Parse `--lr`: a rate, or several with commas between them.

    Raises:
        PipelineError: it is something else.

    """
    if text is None:
        return None
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = ()
    if not rates or not all(0 < rate < float("inf") for rate in rates):
        raise PipelineError(f"--lr {text!r}: a positive number is needed, or several: 0.001,0.1")
    return rates[0] if len(rates) == 1 else rates


def parse_settings(texts: list[str] | None) -> dict[str, object]:
    """Parse `--set` for `Recipe.load`: values are TOML, or plain words.

    Raises:
        PipelineError: an item is not NAME=VALUE.

    """
    changes: dict[str, object] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise PipelineError(f"--set {text!r}: write NAME=VALUE, such as optimizer.kind=muon")
        try:
            parsed: object = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value
        changes[name.strip().replace(".", "__")] = parsed
    return changes


def reject_options_of_a_run(context: typer.Context) -> None:
    """Reject options that an interrupted run has already, instead of ignoring them.

    Raises:
        PipelineError: the command line has one beside `--resume`; the message names it.

    """
    given = []
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if name not in _WITH_RESUME and source is not None and source.name == "COMMANDLINE":
            is_option = parameter.param_type_name == "option"
            given.append(max(parameter.opts, key=len) if is_option else "DATA")
    if given:
        raise PipelineError(
            f"--resume continues with the options that the run began with: leave out "
            f"{', '.join(given)}, or begin a new run"
        )


def chosen_options(options: Mapping[str, object], recipe: str) -> frozenset[str]:
    """Name the options of `Recipe.load` that the user chose: all, in a recipe file of their own."""
    chosen = {name for name, value in options.items() if value is not None}
    if "schedule" in chosen:
        chosen.add("schedule__peak")
    if recipe.endswith(".toml"):
        chosen |= ADAPTED
    return frozenset(chosen)


def parse_size(text: str) -> int | tuple[int, int]:
    """Parse `--image-size`: a side, or (height, width).

    Raises:
        PipelineError: it is something else.

    """
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise PipelineError(f"--image-size {text!r}: write 64, or 48x64 for height 48, width 64")
    if len(parts) == 1:
        return int(parts[0])
    return int(parts[0]), int(parts[1])


def run_training(
    make_plan: "Callable[[World], RunPlan]",
    *,
    out: Path | None,
    device: str,
    track: list[str] | None,
    report: bool,
) -> None:
    """Plan a run and train it, with a bar, trackers and a report; prints the folder.

    Raises:
        PipelineError: see `plan_run`, `RunPlan.train` and `tracker`.

    """
    # torch takes seconds to import: the command line is checked before.
    from pipeline.runs.run import read_run
    from pipeline.training.activation_stats import ActivationStatistics
    from pipeline.training.device import choose_device
    from pipeline.training.distributed import joined

    with ExitStack() as stack:
        world = stack.enter_context(joined(choose_device(device)))
        plan = make_plan(world)
        trainer = plan.trainer(world)
        folder = out or Path("runs") / f"{plan.dataset.name}-{datetime.now():%Y%m%d-%H%M%S}"
        callbacks: list[Callback] = []
        activations = ActivationStatistics()
        if world.leads:
            trackers = [_tracker(name, folder, plan, activations) for name in track or ()]
            _introduce(plan)
            callbacks = [stack.enter_context(training_bar()), *trackers]
        watching = {"activations": activations}
        record = plan.train(folder, callbacks, watching=watching, trainer=trainer)
        if not world.leads:
            return
    if report:
        from pipeline.report import write_report

        say(f"report: {write_report(read_run(folder, data=plan.data))}")
    say(
        f"best epoch {record.best.epoch}: validation accuracy "
        f"{record.best.validation_accuracy:.2%}. Next: limelight export {folder}"
    )
    print(folder)


def _tracker(
    name: str, folder: Path, plan: "RunPlan", activations: "ActivationStatistics"
) -> Callback:
    from pipeline.runs.tracking import tracker

    return tracker(name, folder, plan.config.model_dump(mode="json"), activations)


def _introduce(plan: "RunPlan") -> None:
    config = plan.config
    fit, validation = plan.data.fit, plan.data.validation
    processes = f" by {config.processes} processes" if config.processes > 1 else ""
    say(
        f"{config.source}: {len(config.classes)} classes, {len(fit):,} images to fit, "
        f"{len(validation):,} to validate on, {len(plan.dataset.test):,} to test"
        f"{_not_read(plan.dataset)}; on {config.device}"
        f"{' in bfloat16' if config.bfloat16 else ''}{processes}"
    )
    recipe = config.recipe
    say(
        f"{recipe.epochs:,} epochs of {len(fit) // recipe.batch_size:,} batches of "
        f"{recipe.batch_size:,} images"
    )
    if config.teachers:
        names = ", ".join(teacher.name for teacher in config.teachers)
        say(f"distilling from {names}; the labels are not used")
    uneven = imbalance_report(plan.dataset.train.labels, config.classes)
    if uneven and not config.recipe.class_weights:
        say(uneven)


def _not_read(dataset: Dataset) -> str:
    """Say how many files were skipped: unknown suffixes, and images that cannot be read."""
    kinds = [f"{count:,} {suffix}" for suffix, count in dataset.unread.items()]
    if dataset.skipped:
        kinds.append(f"{len(dataset.skipped):,} unreadable")
    count = sum(dataset.unread.values()) + len(dataset.skipped)
    return f" ({count:,} files skipped: {', '.join(kinds)})" if count else ""
