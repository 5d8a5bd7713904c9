"""`limelight train`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.training_options import (
    TO_LENGTHEN,
    WITH_RESUME,
    Augment,
    BatchSize,
    ClassWeights,
    Data,
    Device,
    DryRun,
    Ema,
    Epochs,
    ImageSize,
    LearningRate,
    Out,
    Patience,
    Report,
    Seed,
    Set,
    Teachers,
    Track,
    Workers,
    choices_of,
    finish,
    rehearse,
    reject_options_of_a_run,
)
from pipeline.data.registry import DATASETS
from pipeline.errors import PipelineError
from pipeline.runs.choices import Choices, check_choices
from pipeline.runs.run_config import read_config
from pipeline.runs.run_folder import is_finished
from pipeline.training.recipe import recipe_names


def train(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            help=f"{', '.join(DATASETS)}; a folder CLASS/IMAGE; or a CSV file of path and label"
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(recipe_names())}, or a TOML file; default: the data set's own"
        ),
    ] = None,
    out: Out = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="continue this run; a finished one for --epochs more, as a new run"),
    ] = None,
    data: Data = None,
    seed: Seed = 0,
    device: Device = "auto",
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    image_size: ImageSize = "auto",
    arch: Annotated[
        str | None,
        typer.Option(help="another architecture, such as torchvision:resnet34 or timm:resnet10t"),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="initialise its features from this file, .safetensors or .pth"),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option("--pretrained", help="initialise from the weights that torchvision publishes"),
    ] = False,
    augment: Augment = None,
    ema: Ema = None,
    patience: Patience = None,
    teachers: Teachers = None,
    settings: Set = None,
    class_weights: ClassWeights = False,
    workers: Workers = None,
    track: Track = None,
    report: Report = True,
    dry_run: DryRun = False,
) -> None:
    """Train a classifier and write a run folder; prints its path.

    Under torchrun the processes train together:
    torchrun --nproc-per-node 2 --no-python limelight train ...

    Example: limelight train mnist --out runs/mnist
    """
    choices = choices_of(locals())
    if resume is not None:
        lengthened = epochs is not None and is_finished(resume)
        reject_options_of_a_run(context, TO_LENGTHEN if lengthened else WITH_RESUME)
        _resume(resume, choices, out=out, data=data, track=track, report=report)
        return
    if source is None:
        raise PipelineError("name the data to train on, or a run to --resume")
    if data is not None:
        raise PipelineError("--data is for --resume: name the images themselves")
    check_choices(source, choices)
    # torch takes seconds to import: the command line is checked before.
    from pipeline import api
    from pipeline.runs.plan_from_choices import plan_training

    if dry_run:
        plan = partial(
            plan_training,
            source,
            arch=arch,
            pretrained=pretrained,
            weights=weights,
            decode=False,
            **choices,
        )
        rehearse(plan, device)
        return
    run = api.train(
        source,
        out=out,
        arch=arch,
        pretrained=pretrained,
        weights=weights,
        track=track or (),
        **choices,
    )
    finish(run, report=report)


def _resume(
    run: Path,
    choices: Choices,
    *,
    out: Path | None,
    data: Path | None,
    track: list[str] | None,
    report: bool,
) -> None:
    read_config(run)
    # torch takes seconds to import: the command line is checked before.
    from pipeline import api

    resumed = api.resume(
        run,
        epochs=choices.get("epochs"),
        out=out,
        data=data,
        device=choices.get("device"),
        workers=choices.get("workers"),
        track=track or (),
    )
    finish(resumed, report=report)
