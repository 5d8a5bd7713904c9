"""What `predict` and `explain` have in common: their files, whom they ask, and what they print."""

import glob
import json
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from limelight.client.client import AsyncClient, Prediction, RefusedError
from pipeline.cli.console import console
from pipeline.errors import PipelineError
from service.inference.in_process import NotServableError, in_process
from service.settings import Settings

Files = Annotated[list[str], typer.Argument(help="images, or patterns such as 'photos/*.jpg'")]
Url = Annotated[str | None, typer.Option(help="of a service; without it, the models run here")]
Models = Annotated[
    Path | None, typer.Option(help="folder of artefacts, where they run here; default: the zoo")
]
Model = Annotated[str | None, typer.Option(help="name of the model; default: the service's")]
AsJson = Annotated[bool, typer.Option("--json", help="a line of JSON for each file")]


def matching(patterns: Iterable[str]) -> list[Path]:
    """The files that names and patterns mean, each once, in their order.

    Raises:
        PipelineError: one means no file, or a folder.

    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        if Path(pattern).is_dir():
            raise PipelineError(
                f"{pattern} is a folder: say '{pattern.rstrip('/')}/*.png', or limelight score"
            )
        # A name that exists is no pattern, whatever characters it has.
        names = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  # patterns may be absolute
        files = [Path(name) for name in names if Path(name).is_file()]
        if not files:
            raise PipelineError(f"{pattern}: there is no such file")
        found.update(dict.fromkeys(files))
    return list(found)


@asynccontextmanager
async def asked(url: str | None, models: Path | None) -> AsyncIterator[AsyncClient]:
    """A client of the service at `url`, or of one without HTTP in this process.

    Raises:
        PipelineError: `models` cannot be served.

    """
    if url is not None:
        if models is not None:
            raise PipelineError("--models is for models that run here: leave out it or --url")
        async with AsyncClient(url) as client:
            yield client
        return
    # A GPU takes longer to start than a CPU to answer for a few files.
    settings = Settings(device="cpu")
    if models is not None:
        settings = settings.model_copy(update={"models": models})
    try:
        async with in_process(settings) as client:
            yield client
    except NotServableError as error:
        raise PipelineError(str(error)) from error


def bar() -> Progress:
    """On standard error, and gone when it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True)


def doubts(answer: Prediction) -> str:
    """Why not to rely on an answer, in a word or two; nothing where the model has no doubts."""
    flags = (("strange", answer.out_of_distribution), ("unsure", answer.abstain))
    return ", ".join(word for word, raised in flags if raised)


def as_line(file: Path, answer: object) -> str:
    """JSON of an answer, or of an error, with the file's name before it."""
    content: dict[str, Any] = {"file": str(file)}
    if isinstance(answer, RefusedError):
        content["error"] = {"code": answer.code, "detail": answer.detail}
    elif isinstance(answer, Exception):
        content["error"] = {"code": "no_answer", "detail": str(answer)}
    else:
        content |= asdict(answer)  # type: ignore[call-overload]
    return json.dumps(content, ensure_ascii=False)


def finish(failures: list[tuple[Path, Exception]]) -> None:
    """Say which files failed, and end with exit status 1 if any did."""
    for file, error in failures:
        console.print(
            f"[bold red]error:[/] {file}: {error}", highlight=False, soft_wrap=True, markup=True
        )
    if failures:
        sys.exit(1)
