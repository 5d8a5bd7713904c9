"""`limelight ladder`."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from pipeline.atomic_files import write_text
from pipeline.cli.training_options import Device, Seed
from pipeline.console import say
from pipeline.data.registry import check_source, load_dataset
from pipeline.data.text_files import cached_text
from pipeline.errors import PipelineError
from pipeline.lessons.ladder import Climbed, Rung, as_markdown, find_rungs
from pipeline.lessons.text_ladder import TEXT, TEXT_LADDER, TextRung, find_text_rungs, text_table
from pipeline.runs.training_display import training_bar
from pipeline.training.recipe import Recipe


def ladder(
    networks: Annotated[
        list[str] | None, typer.Argument(help="recipes of the ladder; default: all")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs/ladder"),
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train the lessons' networks; prints tables of accuracies, losses and times.

    Runs that exist in OUT are not trained again. The exit status is 1 if a network stays below its
    lesson, or if one trains that must fail.

    Example: limelight ladder simplenet convnet
    """
    of_text = {rung.recipe for rung in TEXT_LADDER}
    texts = [name for name in networks or () if name in of_text]
    images = [name for name in networks or () if name not in of_text]
    rungs = find_rungs(images) if images or not networks else []
    text_rungs = find_text_rungs(texts) if texts or not networks else []
    for rung in rungs:
        check_source(Recipe.load(rung.recipe, **rung.changes).data)
    if text_rungs:
        cached_text(TEXT)
    missed = []
    if rungs:
        missed += _climb_images(rungs, out, seed=seed, device=device)
    if text_rungs:
        missed += _climb_texts(text_rungs, out, seed=seed, device=device)
    if missed:
        raise PipelineError(f"not as in the lessons: {', '.join(missed)}; see {out}")


def _climb_images(rungs: Iterable[Rung], out: Path, *, seed: int, device: str) -> list[str]:
    """Train networks for images, print their table, and return the names of those that missed."""
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
    _show(as_markdown(climbed), out / "ladder.md")
    return [each.name for each in climbed if not each.passed]


def _climb_texts(rungs: Iterable[TextRung], out: Path, *, seed: int, device: str) -> list[str]:
    """Train character language models, as `_climb_images` does."""
    from pipeline.lessons.text_climbing import climb_text
    from pipeline.text.corpus import read_corpus
    from pipeline.text.training_display import text_bar

    corpus, climbed = read_corpus(TEXT), []
    for rung in rungs:
        say(rung.recipe)
        with text_bar() as bar:
            climbed.append(
                climb_text(
                    rung, out / rung.recipe, corpus, seed=seed, device=device, observers=[bar]
                )
            )
    _show(text_table(climbed), out / "text-ladder.md")
    return [each.rung.recipe for each in climbed if not each.passed]


def _show(table: str, file: Path) -> None:
    write_text(file, table)
    Console().print(Markdown(table)) if Console().is_terminal else print(table, end="")
