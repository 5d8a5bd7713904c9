"""`limelight ladder`."""

from functools import cache
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from pipeline.cli.console import say
from pipeline.cli.training_bar import training_bar
from pipeline.cli.training_options import Device, Seed
from pipeline.data.registry import check_source, load_dataset
from pipeline.errors import PipelineError
from pipeline.lessons.ladder import Climbed, Rung, as_markdown, find_rungs
from pipeline.runs.atomic_files import write_text
from pipeline.training.recipe import Recipe


def ladder(
    networks: Annotated[
        list[str] | None, typer.Argument(help="recipes of the ladder; default: all")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs/ladder"),
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train the lessons' networks; prints a table of accuracies and times.

    Runs that exist in OUT are not trained again. The exit status is 1 if a network stays below its
    lesson, or if one trains that must fail.

    Example: limelight ladder simplenet convnet
    """
    rungs = find_rungs(networks or ())
    for rung in rungs:
        check_source(Recipe.load(rung.recipe, **rung.changes).data)
    # torch takes seconds to import: what can be refused without it is refused before.
    from pipeline.lessons.climbing import climb
    from pipeline.training.device import choose_device

    chosen = choose_device(device)
    load = cache(load_dataset)

    def climb_one(rung: Rung) -> Climbed:
        say(rung.name)
        folder = out / rung.folder
        with training_bar() as bar:
            return climb(rung, folder, seed=seed, device=chosen, callbacks=[bar], load=load)

    climbed = [climb_one(rung) for rung in rungs]
    table = as_markdown(climbed)
    write_text(out / "ladder.md", table)
    Console().print(Markdown(table)) if Console().is_terminal else print(table, end="")
    missed = [rung.name for rung in climbed if not rung.passed]
    if missed:
        raise PipelineError(f"not as in the lessons: {', '.join(missed)}; see {out}")
