"""`limelight summary`: a network layer by layer."""

from typing import Annotated

import typer
from rich.console import Console

from models import WeightsUnavailable, build_network
from models.options import NetworkOptions
from pipeline.data.entries import Subset
from pipeline.data.registry import DATASETS
from pipeline.errors import PipelineError
from pipeline.evaluation.layer_summary import render, summarise
from pipeline.training.recipe import Recipe, recipe_names

OWN_IMAGES = (3, 64, 10)
UNREAD_WIDTH = 120


def summary(
    recipe: Annotated[
        str, typer.Argument(help="a recipe, its TOML file, or an architecture such as resnet2")
    ],
    image_size: Annotated[
        int | None, typer.Option(min=1, help="side in pixels; default: the data set's")
    ] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, help="1 for grey images, 3 for colour")
    ] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="default: the data set's")] = None,
) -> None:
    """Print a network layer by layer: parameters, multiplications and receptive fields.

    Example: limelight summary cifar10
    """
    options, data = _find(recipe)
    own_channels, own_side, own_classes = data_shape(data)
    in_channels, side = channels or own_channels, image_size or own_side
    try:
        network = build_network(options, in_channels=in_channels, classes=classes or own_classes)
    except (ValueError, WeightsUnavailable) as error:
        raise PipelineError(f"{recipe}: {error}") from error
    console = Console()
    if not console.is_terminal:  # a file is as wide as the table
        console.width = UNREAD_WIDTH
    console.print(render(summarise(network, in_channels, side, side)))


def data_shape(data: str) -> tuple[int, int, int]:
    """Channels, side in pixels and classes of a data set, which need not be in the cache.

    Without an entry in the registry, they are those assumed of a user's own images.
    """
    entry = DATASETS.get(data)
    if entry is None:
        return OWN_IMAGES
    is_resized = isinstance(entry.origin, Subset) and entry.origin.resized
    side = OWN_IMAGES[1] if is_resized else entry.image.height
    return entry.image.channels, side, len(entry.classes)


def _find(name: str) -> tuple[NetworkOptions, str]:
    """Find the network and the data set of a recipe, or of an architecture's name."""
    if name in recipe_names() or name.endswith(".toml"):
        recipe = Recipe.load(name)
        return recipe.network, recipe.data
    return NetworkOptions(architecture=name), "cifar10"
