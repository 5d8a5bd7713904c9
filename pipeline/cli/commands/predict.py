"""`limelight predict`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from limelight.results import Prediction
from pipeline.cli.answerers import (
    Answerer,
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
from pipeline.console import print_table
from pipeline.progress_bars import progress_bar

Answers = list[tuple[Path, Prediction | Exception]]


def predict(
    files: Files,
    url: Url = None,
    models: Models = None,
    model: Model = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    concurrency: Annotated[int, typer.Option(min=1, help="requests under way at a time")] = 8,
) -> None:
    """Say what images show: a table, or JSON lines.

    What cannot be read is named at the end, with exit status 1; the others are answered.

    Example: limelight predict 'photos/*.jpg' --model runs/mine
    """
    found, absent = matching(files)
    with answering(url, models, model, api_key=api_key, concurrency=concurrency) as answerer:
        answers = _ask(found, answerer)
    failures = [(file, answer) for file, answer in answers if isinstance(answer, Exception)]
    if as_json:
        print("\n".join(as_line(*pair) for pair in answers))
    elif len(failures) < len(answers):
        print_table(_table(answers))
    finish(failures + absent)


def _ask(files: list[Path], answerer: Answerer) -> Answers:
    readable, answers = [], dict[Path, Prediction | Exception]()
    for file in files:
        try:
            file.open("rb").close()
        except OSError as error:
            answers[file] = error
        else:
            readable.append(file)
    with progress_bar(transient=True) as progress:
        task = progress.add_task("predicting", total=len(readable))
        for file, answer in zip(readable, answerer.predict_many(readable), strict=True):
            answers[file] = answer
            progress.advance(task)
    return [(file, answers[file]) for file in files]


def _table(answers: Iterable[tuple[Path, Prediction | Exception]]) -> Table:
    table = Table()
    table.add_column("file", overflow="fold")
    table.add_column("class", overflow="fold")
    for heading in ("confidence", "or else", "note"):
        table.add_column(heading)
    for file, answer in answers:
        if isinstance(answer, Prediction):
            rivals = (f"{score.label} {score.probability:.1%}" for score in answer.scores[1:])
            cells = (
                str(file),
                answer.label,
                f"{answer.confidence:.1%}",
                ", ".join(rivals),
                doubts(answer),
            )
            # File names and classes may look like Rich's markup.
            table.add_row(*map(escape, cells))
    return table
