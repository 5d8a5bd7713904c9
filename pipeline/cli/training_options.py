"""Shared by the commands that train: their options, and what they say at the end."""

import os
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from pipeline.cli.model_choice import choose_model
from pipeline.console import next_command, say
from pipeline.errors import PipelineError
from pipeline.progress_bars import reading_bar, step_bar
from pipeline.runs.choices import Choices

if TYPE_CHECKING:
    from pipeline.runs.run import Run
    from pipeline.runs.session import Plan

Out = Annotated[Path | None, typer.Option(help="run folder; default runs/NAME-TIME")]
Seed = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="of the split, the weights and the augmentation")
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="auto uses a GPU if there is one")
]
Epochs = Annotated[int | None, typer.Option(help="instead of the recipe's")]
BatchSize = Annotated[int | None, typer.Option(help="instead of the recipe's")]
LearningRate = Annotated[
    str | None,
    typer.Option("--lr", help="peak rate; or one for each layer group, 'a,b,c'; or 'first,last'"),
]
ImageSize = Annotated[
    str,
    typer.Option(
        help="side of your own images in pixels, or HEIGHTxWIDTH; auto follows the images"
    ),
]
Augment = Annotated[
    Literal["none", "light", "strong"] | None,
    typer.Option(
        help="light crops and mirrors, strong adds RandAugment, mixup and CutMix; default: the "
        "recipe's"
    ),
]
Ema = Annotated[
    float | None,
    typer.Option(help="keep averaged weights, with this decay for each step, such as 0.99"),
]
Patience = Annotated[
    int | None, typer.Option(min=1, help="stop after this many epochs without a better one")
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="processes that decode your own images; default: one a processor"),
]
Data = Annotated[Path | None, typer.Option(help="where the run's images are now, if they moved")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="say what would be done; train and write nothing")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="any option of the recipe, with priority: optimizer.kind=muon, ema_decay=0.99",
    ),
]
Teachers = Annotated[
    list[str] | None,
    typer.Option(
        "--teacher",
        help="distil from this run, artefact or shipped model instead of the labels; may be "
        "repeated",
    ),
]
ClassWeights = Annotated[
    bool, typer.Option("--class-weights", help="weight each class by the inverse of its frequency")
]
Track = Annotated[
    list[str] | None, typer.Option(help="also write to tensorboard or mlflow; may be repeated")
]
Report = Annotated[bool, typer.Option("--report/--no-report", help="write report.html at the end")]


WITH_RESUME = frozenset({"resume", "data", "device", "track", "report", "workers"})
"""Parameters of `limelight train` that an interrupted run does not have."""
TO_LENGTHEN = WITH_RESUME | {"epochs", "out"}
"""Those that a finished run can be given."""


def parse_rates(text: str | None) -> float | tuple[float, ...] | None:
    """Parse `--lr`: a rate, or several with commas between them.

    Raises:
        PipelineError: it is something else.

    """
    if text is None:
        return None
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = ()
    if not rates or not all(0 < rate < float("inf") for rate in rates):
        raise PipelineError(f"--lr {text!r}: a positive number is needed, or several: 0.001,0.1")
    return rates[0] if len(rates) == 1 else rates


def parse_settings(texts: list[str] | None) -> dict[str, object]:
    """Parse `--set` for `Recipe.load`: values are TOML, or plain words.

    Raises:
        PipelineError: an item is not NAME=VALUE.

    """
    changes: dict[str, object] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise PipelineError(f"--set {text!r}: write NAME=VALUE, such as optimizer.kind=muon")
        try:
            parsed: object = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value
        changes[name.strip().replace(".", "__")] = parsed
    return changes


def reject_options_of_a_run(context: typer.Context, accepted: Collection[str]) -> None:
    """Reject options that a run has already, instead of ignoring them.

    `accepted` are the names of those that it does not have.

    Raises:
        PipelineError: the command line has one; the message names it.

    """
    given = []
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if name not in accepted and source is not None and source.name == "COMMANDLINE":
            is_option = parameter.param_type_name == "option"
            given.append(max(parameter.opts, key=len) if is_option else name.upper())
    if given:
        raise PipelineError(
            f"--resume continues with the options that the run began with: leave out "
            f"{', '.join(given)}, or begin a new run"
        )


def choices_of(parameters: Mapping[str, Any]) -> Choices:
    """Collect the choices among the parameters of a command, by name: its `locals()`.

    Raises:
        PipelineError: one of them cannot be parsed, or there is no such teacher.

    """
    given = {name: parameters[name] for name in Choices.__annotations__ if name in parameters}
    parsed = {
        "lr": parse_rates(parameters["lr"]),
        "image_size": parse_size(parameters["image_size"]),
        "settings": parse_settings(parameters["settings"]),
        "teachers": [choose_model(name).folder for name in parameters.get("teachers") or ()],
    }
    return cast("Choices", given | parsed)


def parse_size(text: str | None) -> int | tuple[int, int] | None:
    """Parse `--image-size`: a side, or (height, width); None for `auto`.

    Raises:
        PipelineError: it is something else.

    """
    if text is None or text.lower() == "auto":
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise PipelineError(
            f"--image-size {text!r}: write auto, 64, or 48x64 for height 48, width 64"
        )
    if len(parts) == 1:
        return int(parts[0])
    return int(parts[0]), int(parts[1])


def finish(run: "Run", *, report: bool) -> None:
    """Write the report of a run that was trained, say what comes next, and print its folder."""
    if os.environ.get("RANK", "0") != "0":
        return  # of the processes that train together, one speaks
    if report:
        from pipeline.report import write_report

        with step_bar() as progress:
            page = write_report(run, progress=progress)
        say(f"report: {page}")
    best = run.best
    say(
        f"best epoch {best.epoch}: validation accuracy {best.validation_accuracy:.2%}. Next: "
        f"{next_command('limelight', 'export', run.folder)}"
    )
    print(run.folder)


def rehearse(plan_in: "Plan", device: str) -> None:
    """Say what a run would do; nothing is trained or written."""
    from pipeline.runs.introduction import introduction, outlook
    from pipeline.training.device import choose_device
    from pipeline.training.distributed import joined

    with joined(choose_device(device)) as world:
        with reading_bar(quiet=not world.leads) as progress:
            plan = plan_in(world=world, progress=progress)
        if world.leads:
            for line in (*introduction(plan), *outlook(plan)):
                say(line)
