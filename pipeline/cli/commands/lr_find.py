"""`limelight lr-find`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.training_options import (
    BatchSize,
    Device,
    ImageSize,
    Seed,
    Workers,
    finish,
    parse_size,
)
from pipeline.console import next_command, say
from pipeline.data.registry import DATASETS
from pipeline.figure_files import check_figure_file
from pipeline.runs.choices import Choices, check_choices


def lr_find(
    source: Annotated[
        str, typer.Argument(help=f"{', '.join(DATASETS)}; a folder CLASS/IMAGE; or a CSV file")
    ],
    recipe: Annotated[
        str | None, typer.Option(help="a recipe or a TOML file; default: the data set's own")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="the plot, .svg or .png", callback=check_figure_file)
    ] = Path("lr-find.svg"),
    steps: Annotated[
        int, typer.Option(min=10, help="of the test, from a rate of 1e-7 to 10")
    ] = 100,
    device: Device = "auto",
    seed: Seed = 0,
    batch_size: BatchSize = None,
    image_size: ImageSize = "auto",
    workers: Workers = None,
    train: Annotated[
        bool, typer.Option("--train", help="then train with the suggested rate")
    ] = False,
) -> None:
    """Suggest a peak learning rate by a short run with a rising rate; prints it.

    The plot shows the loss over the rates, with the suggestion and the steepest fall.

    Example: limelight lr-find mnist
    """
    choices = Choices(
        recipe=recipe,
        seed=seed,
        device=device,
        batch_size=batch_size,
        image_size=parse_size(image_size),
        workers=workers,
    )
    check_choices(source, choices)
    # torch takes seconds to import: the command line is checked before.
    from pipeline import api
    from pipeline.report import figures

    found = api.lr_find(source, steps=steps, **choices)
    curve = found.curve
    suggested = ", ".join(f"{name} {rate:.3g}" for name, rate in curve.suggestions.items())
    say(suggested)
    rates = found.rates if isinstance(found.rates, tuple) else (found.rates,)
    written = ",".join(f"{rate:g}" for rate in rates)
    print(written)
    figures.save(figures.learning_rates(curve.rates, curve.losses, curve.suggestions), out)
    say(f"the curve: {out}")
    if train:
        finish(found.train(), report=True)
    else:
        # The rate was measured with these.
        measured = (("--recipe", recipe), ("--batch-size", batch_size), ("--seed", seed or None))
        own = [str(part) for option in measured if option[1] is not None for part in option]
        own += [] if image_size == "auto" else ["--image-size", image_size]
        say(f"Next: {next_command('limelight', 'train', source, *own, '--lr', written)}")
