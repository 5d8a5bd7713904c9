"""`limelight explain`."""

from pathlib import Path
from typing import Annotated

import typer

from limelight.client import ClientError
from limelight.errors import LimelightError
from limelight.explanations.methods import METHODS
from limelight.explanations.overlay import COLORMAPS
from limelight.results import Explanation
from pipeline.cli.answerers import (
    AsJson,
    Files,
    Model,
    Models,
    Url,
    answering,
    as_line,
    doubts,
    finish,
    matching,
)
from pipeline.cli.console import say
from pipeline.cli.progress import progress_bar
from pipeline.errors import PipelineError


def explain(
    files: Files,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="the picture; of several files, a folder of them")
    ],
    url: Url = None,
    models: Models = None,
    model: Model = None,
    target: Annotated[str | None, typer.Option(help="class; default: the winner")] = None,
    method: Annotated[str, typer.Option(help=", ".join(METHODS))] = "cam",
    against: Annotated[str | None, typer.Option(help="other class of a contrast")] = None,
    opacity: Annotated[float, typer.Option(min=0, max=1, help="of the map")] = 0.5,
    colormap: Annotated[str, typer.Option(help=", ".join(COLORMAPS))] = "turbo",
    as_json: AsJson = False,
) -> None:
    """Lay over images what the network looked at, and write them as PNG; prints their paths.

    Example: limelight explain cat.png -o overlay.png --model cifar10 --target cat
    """
    found = matching(files)
    if len(found) > 1 and out.suffix:
        raise PipelineError(f"{len(found)} files, and {out} looks like one: name a folder")
    if len(found) == 1 and not out.is_dir():
        pictures = [out]
    else:
        out.mkdir(parents=True, exist_ok=True)
        pictures = [out / f"{file.stem}.png" for file in found]
        if len(set(pictures)) < len(pictures):
            raise PipelineError("two files have the same name: explain them one by one")
    options = {"target": target, "method": method, "against": against}
    failures: list[tuple[Path, Exception]] = []
    with progress_bar(transient=True) as progress, answering(url, models, model) as answerer:
        task = progress.add_task("explaining", total=len(found))
        for file, picture in zip(found, pictures, strict=True):
            try:
                answer = answerer.explain(file, **options)
                answer.overlay(opacity=opacity, colormap=colormap).save(picture, "PNG")
                _tell(file, picture, answer, as_json)
            except (ClientError, LimelightError, OSError) as error:
                failures.append((file, error))
            progress.advance(task)
    finish(failures)


def _tell(file: Path, picture: Path, answer: Explanation, as_json: bool) -> None:
    if as_json:
        print(as_line(file, answer))
        return
    box = ", ".join(f"{edge:.0f}" for edge in answer.cam.box)
    doubt = doubts(answer)
    verdict = f"{answer.label}, {answer.confidence:.1%}" + (f" ({doubt})" if doubt else "")
    say(f"{file}: {verdict}; {answer.cam.target} at {box}")
    print(picture)
