"""`limelight summary`: a network layer by layer."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.options import NetworkOptions
from pipeline.cli.model_choice import choose_model, known_models, model_at
from pipeline.console import print_table, say
from pipeline.data.entries import Subset
from pipeline.data.registry import DATASETS
from pipeline.errors import PipelineError
from pipeline.figure_files import check_figure_file
from pipeline.runs.run_config import RunConfig, read_config
from pipeline.training.recipe import Recipe, recipe_names

if TYPE_CHECKING:
    from pipeline.evaluation.layers.layer_summary import LayerSummary
    from pipeline.runs.pretrained import Pretrained

OWN_IMAGES = (3, 64, 64, 10)

Shape = tuple[int, int, int, int]
"""Channels, height and width of images, and the number of classes."""


def summary(
    network: Annotated[
        str,
        typer.Argument(
            help="a recipe, its TOML file, an architecture such as resnet2, a run, an artefact, or "
            "a shipped model"
        ),
    ],
    image_size: Annotated[
        int | None, typer.Option(min=1, help="side in pixels; default: the data set's")
    ] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, help="1 for grey images, 3 for colour")
    ] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="default: the data set's")] = None,
    receptive_field: Annotated[
        tuple[str, int, int] | None,
        typer.Option(
            metavar="LAYER ROW COLUMN",
            help="draw which pixels this activation sees, instead of the table",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            help="the picture of --receptive-field, .svg or .png", callback=check_figure_file
        ),
    ] = Path("receptive-field.png"),
) -> None:
    """Print a network layer by layer: parameters, multiplications and receptive fields.

    A name means a recipe, else an architecture, else a shipped model; ./NAME is a folder.

    Example: limelight summary cifar10
    """
    options, (own_channels, height, width, own_classes) = _find(network)
    in_channels = channels or own_channels
    # torch takes seconds to import: what can be refused without it is refused before.
    from models import WeightsUnavailable, build_network
    from pipeline.evaluation.layers.layer_summary import render, summarise

    try:
        built = build_network(options, in_channels=in_channels, classes=classes or own_classes)
    except (ValueError, WeightsUnavailable) as error:
        raise PipelineError(f"{network}: {error}") from error
    height, width = image_size or height, image_size or width
    rows = summarise(built, in_channels, height, width)
    if receptive_field is None:
        print_table(render(rows))
    else:
        _draw(rows, receptive_field, out, height=height, width=width)


def _draw(
    rows: "list[LayerSummary]", at: tuple[str, int, int], out: Path, *, height: int, width: int
) -> None:
    from pipeline.evaluation.layers.field_plot import draw_seen, seen_pixels
    from pipeline.report.figures import save

    seen = seen_pixels(rows, *at, height=height, width=width)
    save(draw_seen(seen, height=height, width=width), out)
    print(seen)
    print(out)


def data_shape(data: str) -> Shape:
    """Return the shape of a data set, which need not be in the cache.

    Without an entry in the registry, it is the one assumed of a user's own images.
    """
    entry = DATASETS.get(data)
    if entry is None:
        return OWN_IMAGES
    _, height, width, _ = OWN_IMAGES
    if not (isinstance(entry.origin, Subset) and entry.origin.resized):
        height, width = entry.image.height, entry.image.width
    return entry.image.channels, height, width, len(entry.classes)


def _find(name: str) -> tuple[NetworkOptions, Shape]:
    """Find the network of `name`, and the shape of its data.

    Raises:
        PipelineError: there is none.

    """
    if name in recipe_names() or name.endswith(".toml"):
        recipe = Recipe.load(name)
        found = recipe.network, data_shape(recipe.data)
    elif ":" in name or name in _architectures():
        found = NetworkOptions(architecture=name), data_shape("cifar10")
    else:
        return _of_model(name)
    if model_at(Path(name)) is not None:
        say(f"{name} is a recipe or an architecture; for the folder, say ./{name}")
    return found


def _architectures() -> list[str]:
    from models import ARCHITECTURES

    return list(ARCHITECTURES)


def _of_model(name: str) -> tuple[NetworkOptions, Shape]:
    try:
        choice = choose_model(name)
    except PipelineError as error:
        if Path(name).exists():
            raise
        raise PipelineError(
            f"no recipe, architecture or model {name!r}; recipes: {', '.join(recipe_names())}; "
            f"architectures: {', '.join(_architectures())}; {known_models()}"
        ) from error
    model: RunConfig | Pretrained
    if choice.kind == "run":
        model = read_config(choice.folder)  # which is there before the first epoch has ended
        options = model.recipe.network
    else:
        from pipeline.runs.pretrained import read_pretrained

        model = read_pretrained(choice.folder)
        options = model.network
    image = model.image
    shape = image.channels, image.height, image.width, len(model.classes)
    # The published weights of a pretrained network are not needed.
    return replace(options, pretrained=False), shape
