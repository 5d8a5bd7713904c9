"""`limelight explain`."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from limelight.artifact.manifest import Method
from limelight.client.client import ClientError, Explanation
from pipeline.cli.commands.asking import (
    AsJson,
    Files,
    Model,
    Models,
    Url,
    as_line,
    asked,
    bar,
    doubts,
    finish,
    matching,
)
from pipeline.cli.console import say
from pipeline.errors import PipelineError

Parameters = dict[str, str | int | float | None]


def explain(
    files: Files,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="the picture; of several files, a folder of them")
    ],
    url: Url = None,
    models: Models = None,
    model: Model = None,
    target: Annotated[str | None, typer.Option(help="class; default: the winner")] = None,
    method: Annotated[Method, typer.Option(help="how to explain")] = "cam",
    against: Annotated[str | None, typer.Option(help="other class of a contrast")] = None,
    opacity: Annotated[float, typer.Option(min=0, max=1, help="of the map")] = 0.5,
    colormap: Annotated[str, typer.Option(help="turbo, viridis, inferno, magma or jet")] = "turbo",
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
    parameters: Parameters = {
        "model": model, "target": target, "method": method, "against": against,
    }  # fmt: skip
    style: Parameters = {"opacity": opacity, "colormap": colormap}
    asyncio.run(_explain(found, pictures, url, models, parameters, style, as_json))


async def _explain(
    files: list[Path],
    pictures: list[Path],
    url: str | None,
    models: Path | None,
    parameters: Parameters,
    style: Parameters,
    as_json: bool,
) -> None:
    failures: list[tuple[Path, Exception]] = []
    with bar() as progress:
        task = progress.add_task("explaining", total=len(files))
        async with asked(url, models) as client:
            for file, picture in zip(files, pictures, strict=True):
                try:
                    answer = await client.explain(file, **parameters)
                    picture.write_bytes(await client.overlay(file, **parameters, **style))
                    _tell(file, picture, answer, as_json)
                except (ClientError, OSError) as error:
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
