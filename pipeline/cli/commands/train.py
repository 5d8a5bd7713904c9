"""`limelight train`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.training_options import (
    BatchSize,
    ClassWeights,
    Device,
    Epochs,
    ImageSize,
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
    reject_options_of_a_run,
    run_training,
)
from pipeline.data.registry import DATASETS, default_recipe
from pipeline.errors import PipelineError
from pipeline.runs.pretrained import distil_from
from pipeline.runs.run_setup import RunPlan, plan_run, resume_run
from pipeline.training.device import choose_device
from pipeline.training.distributed import World
from pipeline.training.recipe import Recipe, recipe_names


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
        Path | None, typer.Option(help="continue this run after its last finished epoch")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    image_size: ImageSize = "64",
    arch: Annotated[
        str | None, typer.Option(help="another architecture, such as torchvision:resnet34")
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option("--pretrained", help="initialise from the weights that torchvision publishes"),
    ] = False,
    teachers: Teachers = None,
    choices: Set = None,
    class_weights: ClassWeights = False,
    track: Track = None,
    report: Report = True,
) -> None:
    """Train a classifier and write a run folder; prints its path.

    Under torchrun the processes train together: torchrun --nproc-per-node 2 -m pipeline train ...

    Example: limelight train mnist --out runs/mnist
    """

    def make_plan(world: World) -> RunPlan:
        if resume is not None:
            reject_options_of_a_run(context)
            return resume_run(resume, choose_device(device), processes=world.size)
        if source is None:
            raise PipelineError("name the data to train on, or a run to --resume")
        name = recipe or default_recipe(source)
        options: dict[str, object] = {
            "epochs": epochs,
            "batch_size": batch_size,
            "schedule__peak": parse_rates(lr),
            "class_weights": class_weights or None,
            "network": {"architecture": arch} if arch else None,
            "network__pretrained": pretrained or None,
        }
        options |= parse_settings(choices)
        chosen = Recipe.load(name, **options)
        plan = plan_run(
            source,
            recipe_name=name,
            recipe=chosen,
            seed=seed,
            device=choose_device(device),
            image_size=parse_size(image_size),
            processes=world.size,
        )
        return distil_from(plan.fitted_to_size(chosen_options(options, name)), teachers or ())

    run_training(
        make_plan,
        out=resume or out,
        device=device,
        track=track,
        report=report,
    )
