"""Plans of runs, from what a user chooses."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Unpack

import torch

from models import build_network
from models.options import NetworkOptions
from pipeline.data.reading_options import ImageProgress, Reading, ignore
from pipeline.data.registry import (
    check_source,
    check_unambiguous,
    default_recipe,
    source_at,
)
from pipeline.errors import RunError
from pipeline.runs.backbone_weights import initialise_from_file, read_backbone_weights
from pipeline.runs.choices import Choices, augmentation_of, chosen_names, recipe_changes
from pipeline.runs.pretrained import distil_from, initialise_from, read_pretrained
from pipeline.runs.run_config import read_config
from pipeline.runs.run_folder import TEACHERS, is_finished
from pipeline.runs.run_plan import RunPlan, plan_run
from pipeline.runs.tensor_files import read_tensors
from pipeline.training.device import choose_device
from pipeline.training.distributed import World
from pipeline.training.recipe import Recipe

FINETUNE = "finetune"
"""Default recipe of fine-tuning."""
# From scratch, more pixels cost time that few images of one's own do not repay.
_LARGEST = 64
# What published backbones were trained with.
_LARGEST_OF_BACKBONES = 224


def plan_training(
    source: str,
    *,
    arch: str | None = None,
    pretrained: bool = False,
    weights: Path | None = None,
    world: World | None = None,
    progress: ImageProgress = ignore,
    decode: bool = True,
    **choices: Unpack[Choices],
) -> RunPlan:
    """Plan to train on `source`; what can be refused is refused before images are read.

    Args:
        source: name of a data set, folder of images by class, or CSV file of paths and labels.
        arch: another architecture than the recipe's.
        pretrained: initialise from the weights that torchvision publishes.
        weights: file of weights of timm or torchvision to initialise the features from.
        world: the processes that train together.
        progress: is told how many images were read.
        decode: False only lists the user's own images, for a dry run.
        choices: the other options.

    Raises:
        PipelineError: an option is invalid, or contradicts another one or the data.

    """
    check_unambiguous(source)
    check_source(source, choices.get("image_size"))
    name = choices.get("recipe") or default_recipe(source)
    # The architecture comes first: it replaces the recipe's network, and other options change it.
    network = {"architecture": arch} if arch else None
    changes: dict[str, object] = {"network": network} | recipe_changes(choices)
    changes["network__pretrained"] = pretrained or changes.get("network__pretrained")
    recipe = _load(name, changes, choices)
    _check_network(recipe.network)
    if weights is not None:
        read_backbone_weights(weights, recipe, channels=3, classes=2)
    backbone = ":" in recipe.network.architecture
    plan = plan_run(
        source,
        recipe_name=name,
        recipe=recipe,
        seed=choices.get("seed", 0),
        device=choose_device(choices.get("device", "auto")),
        image_size=choices.get("image_size"),
        largest=_LARGEST_OF_BACKBONES if backbone else _LARGEST,
        processes=world.size if world else 1,
        reading=Reading(workers=choices.get("workers"), progress=progress, decode=decode),
    )
    plan = plan.fitted_to_size(chosen_names(changes, name))
    if weights is not None:
        plan = initialise_from_file(plan, weights)
    return distil_from(plan, [Path(each) for each in choices.get("teachers") or ()])


def plan_finetuning(
    source: str,
    *,
    pretrained: Path,
    freeze_epochs: int | None = None,
    bn_freeze: bool | None = None,
    world: World | None = None,
    progress: ImageProgress = ignore,
    decode: bool = True,
    **choices: Unpack[Choices],
) -> RunPlan:
    """Plan to fine-tune the model `pretrained` on `source`: the head first, then all.

    Args:
        source: as for `plan_training`.
        pretrained: an artefact, a model's folder of artefacts, or a run folder.
        freeze_epochs: epochs that train only the head.
        bn_freeze: keep the statistics of the model's BatchNorm layers.
        world: the processes that train together.
        progress: is told how many images were read.
        decode: False only lists the user's own images, for a dry run.
        choices: the other options.

    Raises:
        PipelineError: an option is invalid, or contradicts another one, the data or the model.

    """
    check_unambiguous(source)
    check_source(source, choices.get("image_size"))
    name = choices.get("recipe") or FINETUNE
    begin = read_pretrained(pretrained)
    changes: dict[str, object] = {"network": asdict(begin.network)} | recipe_changes(choices)
    changes |= {"freeze_epochs": freeze_epochs, "bn_freeze": bn_freeze}
    plan = plan_run(
        source,
        recipe_name=name,
        recipe=_load(name, changes, choices),
        seed=choices.get("seed", 0),
        device=choose_device(choices.get("device", "auto")),
        image_size=choices.get("image_size") or begin.image_size,
        normalisation=begin.normalisation,
        pretrained=begin.name,
        processes=world.size if world else 1,
        reading=Reading(workers=choices.get("workers"), progress=progress, decode=decode),
    )
    plan = initialise_from(plan.fitted_to_size(chosen_names(changes, name)), begin)
    return distil_from(plan, [Path(each) for each in choices.get("teachers") or ()])


def plan_longer(
    run: Path,
    epochs: int,
    *,
    data: Path | None = None,
    device: torch.device,
    world: World | None = None,
    reading: Reading | None = None,
) -> RunPlan:
    """Plan to train a finished run for `epochs` more, as a run of its own that begins with it.

    The split and the teachers are the same, and the schedule begins again, as in fast.ai's
    `fit_one_cycle`. `data` is where the run's images are now.

    Raises:
        PipelineError: the run is not finished, or its data has changed.

    """
    config = read_config(run)
    if not is_finished(run):
        raise RunError(f"{run} is not finished, and keeps its epochs: leave out --epochs")
    begin = read_pretrained(run)
    plan = plan_run(
        source_at(data) if data else config.source,
        recipe_name=config.recipe_name,
        recipe=config.recipe.but(epochs=epochs, freeze_epochs=0),
        seed=config.seed,
        device=device,
        image_size=config.image_size,
        normalisation=config.normalisation,
        pretrained=begin.name,
        processes=world.size if world else 1,
        reading=reading,
    )
    config.check(plan.data)
    if config.teachers:
        plan = plan.distilled_from(config.teachers, read_tensors(run / TEACHERS)[0])
    return initialise_from(plan, begin)


def next_folder(run: Path) -> Path:
    """Return the first of RUN-2, RUN-3, ... that does not exist."""
    number = 2
    run = run if run.name else run.resolve()
    while (folder := run.with_name(f"{run.resolve().name}-{number}")).exists():
        number += 1
    return folder


def _load(name: str, changes: Mapping[str, object], choices: Choices) -> Recipe:
    """Load a recipe with the changes, which have priority over what `augment` means."""
    augment = choices.get("augment")
    if augment is None:
        return Recipe.load(name, **changes)
    chosen = augmentation_of(augment, Recipe.load(name).augmentation)
    return Recipe.load(name, **{"augmentation": chosen.model_dump(), **changes})


def _check_network(options: NetworkOptions) -> None:
    """Build the network without memory for its weights.

    Raises:
        RunError: there is no such network, or its options contradict each other.

    """
    try:
        with torch.device("meta"):
            build_network(replace(options, pretrained=False), in_channels=3, classes=2)
    except ValueError as error:
        raise RunError(f"network: {error}") from error
