"""`limelight explain`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from limelight.client import ClientError
from limelight.errors import LimelightError
from limelight.explanations.methods import METHODS
from limelight.explanations.overlay import COLORMAPS
from limelight.results import Explanation
from pipeline.cli.answerers import (
    ApiKey,
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
from pipeline.console import say
from pipeline.errors import PipelineError
from pipeline.progress_bars import progress_bar

FORMATS = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 90}),
    ".jpeg": ("JPEG", {"quality": 90}),
    ".webp": ("WEBP", {"quality": 90}),
}
"""Formats of pictures by suffix, with Pillow's options."""


def explain(
    files: Files,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help=f"the picture ({', '.join(FORMATS)}), or a folder for pictures"
        ),
    ],
    url: Url = None,
    models: Models = None,
    model: Model = None,
    api_key: ApiKey = None,
    target: Annotated[str | None, typer.Option(help="class; default: the winner")] = None,
    method: Annotated[str, typer.Option(help=", ".join(METHODS))] = "cam",
    against: Annotated[str | None, typer.Option(help="other class of a contrast")] = None,
    opacity: Annotated[float, typer.Option(min=0, max=1, help="of the map")] = 0.5,
    colormap: Annotated[str, typer.Option(help=", ".join(COLORMAPS))] = "turbo",
    as_json: AsJson = False,
) -> None:
    """Lay over images what the network looked at, and write the pictures; prints their paths.

    In a folder, the pictures are PNG files. MODEL is a run folder, an artefact, or a model's name.

    Example: limelight explain cat.png -o overlay.png --model cifar10 --target cat
    """
    found, failures = matching(files)
    pictures = _pictures(found, out)
    options = {"target": target, "method": method, "against": against}
    chosen = answering(url, models, model, api_key=api_key)
    with progress_bar(transient=True) as progress, chosen as answerer:
        task = progress.add_task("explaining", total=len(found))
        for file, picture in zip(found, pictures, strict=True):
            try:
                answer = answerer.explain(file, **options)
                _save(answer.overlay(opacity=opacity, colormap=colormap), picture)
                _tell(file, picture, answer, as_json)
            except (ClientError, LimelightError, OSError) as error:
                failures.append((file, error))
            progress.advance(task)
    finish(failures)


def _pictures(files: Sequence[Path], out: Path) -> list[Path]:
    """Name the picture of each file, and make the folder of the pictures.

    Raises:
        PipelineError: `out` has a suffix of no format, cannot hold a picture of each file, or
            is one of the files, or a folder of them, which pictures would replace.
        OSError: the folder cannot be made.

    """
    if out.suffix and not out.is_dir():
        if len(files) > 1:
            raise PipelineError(f"{len(files)} files, and {out} looks like one: name a folder")
        if out.suffix.lower() not in FORMATS:
            raise PipelineError(
                f"{out}: a picture is {', '.join(FORMATS)}: choose one of these suffixes, or a "
                "folder that exists"
            )
        if out.exists() and out.samefile(files[0]):
            raise PipelineError(f"{out} is the image itself: name another file for the picture")
        out.parent.mkdir(parents=True, exist_ok=True)
        return [out]
    if out.exists() and any(out.samefile(file.parent) for file in files):
        raise PipelineError(
            f"{out} is the folder of the images, which pictures could replace: name another one"
        )
    pictures = [out / f"{file.stem}.png" for file in files]
    if len(set(pictures)) < len(pictures):
        raise PipelineError("two files have the same name: explain them one by one")
    out.mkdir(parents=True, exist_ok=True)
    return pictures


def _save(picture: Image.Image, file: Path) -> None:
    """Write a picture in the format of the suffix of `file`.

    Raises:
        OSError: the file cannot be written, or the format allows no picture of that size.

    """
    name, options = FORMATS[file.suffix.lower()]
    try:
        picture.save(file, name, **options)
    except ValueError as error:  # as Pillow reports a picture that is too large for WebP
        raise OSError(f"{file}: {error}") from error


def _tell(file: Path, picture: Path, answer: Explanation, as_json: bool) -> None:
    if as_json:
        print(as_line(file, answer))
        return
    box = ", ".join(f"{edge:.0f}" for edge in answer.cam.box)
    doubt = doubts(answer)
    verdict = f"{answer.label}, {answer.confidence:.1%}" + (f" ({doubt})" if doubt else "")
    say(f"{file}: {verdict}; {answer.cam.target} at {box}")
    print(picture)
