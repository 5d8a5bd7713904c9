"""`limelight finetune`."""

from functools import partial
from typing import Annotated

import typer

from pipeline.cli.model_choice import choose_model
from pipeline.cli.training_options import (
    Augment,
    BatchSize,
    ClassWeights,
    Device,
    DryRun,
    Ema,
    Epochs,
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
)
from pipeline.runs.choices import check_choices


def finetune(
    source: Annotated[str, typer.Argument(help="a data set, a folder CLASS/IMAGE, or a CSV file")],
    pretrained: Annotated[
        str,
        typer.Option("--from", help="a run, an artefact, or the name of a shipped model"),
    ],
    recipe: Annotated[str, typer.Option(help="a recipe or a TOML file")] = "finetune",
    out: Out = None,
    seed: Seed = 0,
    device: Device = "auto",
    freeze_epochs: Annotated[
        int | None, typer.Option(help="in which only the head is trained, instead of the recipe's")
    ] = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    bn_freeze: Annotated[
        bool | None,
        typer.Option(
            "--bn-freeze/--no-bn-freeze", help="BatchNorm layers keep the pretrained's statistics"
        ),
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(help="side in pixels, or HEIGHTxWIDTH; default: the pretrained's")
    ] = None,
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
    """Fine-tune a pretrained model on new classes: the head first, then all; prints the run folder.

    If the classes are the same, the head is kept, too.
    Continue an interrupted run with limelight train --resume RUN.

    Example: limelight finetune --from cifar10 ./my-photos
    """
    choices = choices_of(locals())
    check_choices(source, choices, recipe=recipe)
    begin = choose_model(pretrained).folder
    # torch takes seconds to import: the command line is checked before.
    from pipeline import api
    from pipeline.runs.plan_from_choices import plan_finetuning

    if dry_run:
        plan = partial(
            plan_finetuning,
            source,
            pretrained=begin,
            freeze_epochs=freeze_epochs,
            bn_freeze=bn_freeze,
            decode=False,
            **choices,
        )
        rehearse(plan, device)
        return
    run = api.finetune(
        source,
        pretrained=begin,
        out=out,
        freeze_epochs=freeze_epochs,
        bn_freeze=bn_freeze,
        track=track or (),
        **choices,
    )
    finish(run, report=report)
