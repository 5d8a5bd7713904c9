"""`limelight finetune`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.training_options import (
    BatchSize,
    ClassWeights,
    Device,
    Epochs,
    LearningRate,
    Out,
    Report,
    Seed,
    Set,
    Teachers,
    Track,
    chosen_options,
    parse_rates,
    parse_settings,
    parse_size,
    run_training,
)
from pipeline.runs.pretrained import distil_from, initialise_from, read_pretrained
from pipeline.runs.run_setup import RunPlan, plan_run
from pipeline.training.device import choose_device
from pipeline.training.distributed import World
from pipeline.training.recipe import Recipe


def finetune(
    source: Annotated[str, typer.Argument(help="a data set, a folder CLASS/IMAGE, or a CSV file")],
    pretrained: Annotated[
        Path,
        typer.Option("--from", help="an artefact, a model's folder of artefacts, or a run folder"),
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
    teachers: Teachers = None,
    choices: Set = None,
    class_weights: ClassWeights = False,
    track: Track = None,
    report: Report = True,
) -> None:
    """Fine-tune a pretrained model on new classes: the head first, then all; prints the run folder.

    If the classes are the same, the head is kept, too.
    Continue an interrupted run with limelight train --resume RUN.

    Example: limelight finetune --from zoo/cifar10 ./my-photos
    """

    def make_plan(world: World) -> RunPlan:
        begin = read_pretrained(pretrained)
        options: dict[str, object] = {
            "network": asdict(begin.network),
            "freeze_epochs": freeze_epochs,
            "epochs": epochs,
            "batch_size": batch_size,
            "schedule__peak": parse_rates(lr),
            "bn_freeze": bn_freeze,
            "class_weights": class_weights or None,
        }
        options |= parse_settings(choices)
        plan = plan_run(
            source,
            recipe_name=recipe,
            recipe=Recipe.load(recipe, **options),
            seed=seed,
            device=choose_device(device),
            image_size=begin.image_size if image_size is None else parse_size(image_size),
            normalisation=begin.normalisation,
            pretrained=begin.name,
            processes=world.size,
        )
        plan = plan.fitted_to_size(chosen_options(options, recipe))
        return distil_from(initialise_from(plan, begin), teachers or ())

    run_training(make_plan, out=out, device=device, track=track, report=report)
