"""`limelight lr-find`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import say
from pipeline.cli.training_options import (
    BatchSize,
    Device,
    ImageSize,
    Seed,
    parse_rates,
    parse_size,
    run_training,
)
from pipeline.data.registry import DATASETS, default_recipe
from pipeline.runs.run_setup import plan_run
from pipeline.training.device import choose_device
from pipeline.training.lr_finder import STEPS, RateCurve, find_rate
from pipeline.training.recipe import Recipe
from pipeline.training.schedules import Rates


def lr_find(
    source: Annotated[
        str, typer.Argument(help=f"{', '.join(DATASETS)}; a folder CLASS/IMAGE; or a CSV file")
    ],
    recipe: Annotated[
        str | None, typer.Option(help="a recipe or a TOML file; default: the data set's own")
    ] = None,
    out: Annotated[Path, typer.Option(help="the plot, .svg or .png")] = Path("lr-find.svg"),
    steps: Annotated[int, typer.Option(help="of the test, from a rate of 1e-7 to 10")] = STEPS,
    device: Device = "auto",
    seed: Seed = 0,
    batch_size: BatchSize = None,
    image_size: ImageSize = "64",
    train: Annotated[
        bool, typer.Option("--train", help="then train with the suggested rate")
    ] = False,
) -> None:
    """Suggest a peak learning rate by a short run with a rising rate; prints it.

    The plot shows the loss over the rates, with the suggestion and the steepest fall.

    Example: limelight lr-find mnist
    """
    name = recipe or default_recipe(source)
    chosen = Recipe.load(name, batch_size=batch_size)
    plan = plan_run(
        source,
        recipe_name=name,
        recipe=chosen.but(freeze_epochs=0),
        seed=seed,
        device=choose_device(device),
        image_size=parse_size(image_size),
    )
    curve = find_rate(plan.trainer(), steps=steps)
    _draw(curve, out)
    rates = scaled(chosen.schedule.peak, curve.suggestions["valley"])
    print(rates)
    if not train:
        say(f"Next: limelight train {source} --lr {rates}")
        return
    tuned = chosen.but(schedule__peak=parse_rates(rates))
    run_training(
        lambda world: plan.with_recipe(tuned, processes=world.size),
        out=None,
        device=device,
        track=None,
        report=True,
    )


def scaled(peak: Rates, highest: float) -> str:
    """Scale `peak` so that its highest rate is `highest`, and write it as --lr accepts it."""
    rates = peak if isinstance(peak, tuple) else (peak,)
    return ",".join(f"{rate * highest / max(rates):.3g}" for rate in rates)


def _draw(curve: RateCurve, out: Path) -> None:
    from pipeline.report import figures

    figures.save(figures.learning_rates(curve.rates, curve.losses, curve.suggestions), out)
    found = ", ".join(f"{name} {rate:.3g}" for name, rate in curve.suggestions.items())
    say(f"{found}; the curve: {out}")
