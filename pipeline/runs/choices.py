"""Options of a training run that a user chooses, by the command line or from Python."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict

from pipeline.data.registry import check_source, check_unambiguous, default_recipe
from pipeline.training.optimization.schedules import Rates
from pipeline.training.recipe import Augmentation, Recipe
from pipeline.training.small_data import ADAPTED

Augment = Literal["none", "light", "strong"]
ImageSize = int | tuple[int, int]


class Choices(TypedDict, total=False):
    """Options of `train`, `finetune` and `lr_find`; what is missing or None is the recipe's."""

    recipe: str | None
    """Name of a recipe, or a TOML file."""
    seed: int
    """Of the split, the weights and the augmentation; 0 by default."""
    device: Literal["auto", "cpu", "cuda"]
    epochs: int | None
    batch_size: int | None
    lr: Rates | None
    """Peak rate: one, or one for each layer group, or the first and the last."""
    image_size: ImageSize | None
    """Side of the user's own images in pixels, or (height, width); None follows the images."""
    augment: Augment | None
    ema: float | None
    """Decay of the EMA weights for each step, such as 0.99."""
    patience: int | None
    """Epochs without a better one after which training ends."""
    class_weights: bool
    """Weight each class by the inverse of its frequency."""
    teachers: Sequence[str | Path]
    """Runs or artefacts to distil from, instead of learning the labels."""
    settings: Mapping[str, object] | None
    """Any options of the recipe, with priority: {"optimizer.kind": "muon"}."""
    workers: int | None
    """Processes that decode the user's own images; None is the number of processors."""


def recipe_changes(choices: Choices) -> dict[str, object]:
    """Return the changes of a recipe that `choices` mean, as `Recipe.load` takes them."""
    changes: dict[str, object] = {
        "epochs": choices.get("epochs"),
        "batch_size": choices.get("batch_size"),
        "schedule__peak": choices.get("lr"),
        "ema_decay": choices.get("ema"),
        "patience": choices.get("patience"),
        "class_weights": choices.get("class_weights") or None,
    }
    settings = choices.get("settings") or {}
    return changes | {name.replace(".", "__"): value for name, value in settings.items()}


def check_choices(source: str, choices: Choices, *, recipe: str | None = None) -> None:
    """Refuse what can be refused without torch: no such data, no such recipe, an invalid option.

    `recipe` is the default one; without it, that of the data set.

    Raises:
        PipelineError: the message says what is wrong.

    """
    check_unambiguous(source)
    check_source(source, choices.get("image_size"))
    name = choices.get("recipe") or recipe or default_recipe(source)
    Recipe.load(name, **recipe_changes(choices))


def chosen_names(changes: Mapping[str, object], recipe: str) -> frozenset[str]:
    """Name the options that the user chose: all, in a recipe file of their own."""
    chosen = {name for name, value in changes.items() if value is not None}
    if "schedule" in chosen:
        chosen.add("schedule__peak")
    if recipe.endswith(".toml"):
        chosen |= ADAPTED
    return frozenset(chosen)


def augmentation_of(augment: Augment, recipe: Augmentation) -> Augmentation:
    """Return the augmentation that `augment` means for images which `recipe` is made for.

    `light` crops, and mirrors if the recipe does: digits have no mirror images. `strong` adds
    RandAugment to every image, and mixup or CutMix to half of them.
    """
    if augment == "none":
        return Augmentation()
    light = Augmentation(flip=recipe.flip, pad=recipe.pad)
    if augment == "light":
        return light
    return light.model_copy(update={"randaugment": 0.5, "mixup": 0.2, "cutmix": 0.3})
