"""Train character language models, and let them write."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.text.options import ARCHITECTURES
from pipeline.cli.training_options import (
    Device,
    Out,
    Report,
    Set,
    parse_settings,
    reject_options_of_a_run,
)
from pipeline.console import next_command, say
from pipeline.data.text_files import TEXTS
from pipeline.errors import PipelineError
from pipeline.runs.run_folder import CONFIG
from pipeline.text.corpus import text_file
from pipeline.text.recipe import TextRecipe

if TYPE_CHECKING:
    from pipeline.text.run import TextRun

text = typer.Typer(help=__doc__, no_args_is_help=True)

_WITH_RESUME = ("resume", "data", "device", "report")


@text.command()
def train(
    context: typer.Context,
    network: Annotated[
        str | None, typer.Argument(help=f"{', '.join(ARCHITECTURES)}, or a TOML file")
    ] = None,
    file: Annotated[
        str | None, typer.Argument(help=f"a UTF-8 text file, or {', '.join(TEXTS)}")
    ] = None,
    out: Out = None,
    resume: Annotated[Path | None, typer.Option(help="continue this interrupted run")] = None,
    data: Annotated[
        Path | None, typer.Option(help="where the run's text is now, if it moved")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="instead of the recipe's")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="peak learning rate")] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="of the weights, the order and the dropout")
    ] = 0,
    device: Device = "auto",
    settings: Set = None,
    report: Report = True,
) -> None:
    """Train a network on a text and write a run folder; prints its path.

    Example: limelight text train char-gru nietzsche --out runs/gru
    """
    if resume is not None:
        reject_options_of_a_run(context, _WITH_RESUME)
        _resume(resume, data=data, device=device, report=report)
        return
    if network is None or file is None:
        raise PipelineError("name a network and a text, or a run to --resume")
    if data is not None:
        raise PipelineError("--data is for --resume: name the text itself")
    changes = {"epochs": epochs, "schedule__peak": lr} | parse_settings(settings)
    recipe = TextRecipe.load(network, **changes)
    text_file(file)
    # torch takes seconds to import: the command line is checked before.
    from pipeline.text.corpus import read_corpus
    from pipeline.text.run import begin
    from pipeline.text.training_display import text_bar

    corpus = read_corpus(file, validation=recipe.validation)
    say(
        f"{file}: {len(corpus.vocabulary)} characters, {len(corpus.training):,} to fit, "
        f"{len(corpus.validation):,} to validate on"
    )
    folder = out or Path("runs") / f"{Path(network).stem}-{datetime.now():%Y%m%d-%H%M%S}"
    with _continuable(folder), text_bar() as bar:
        run = begin(
            corpus,
            folder,
            recipe_name=network,
            recipe=recipe,
            seed=seed,
            device=device,
            observers=[bar],
        )
    _finish(run, report=report)


def _resume(folder: Path, *, data: Path | None, device: str, report: bool) -> None:
    from pipeline.text.run import resume
    from pipeline.text.training_display import text_bar

    with _continuable(folder), text_bar() as bar:
        run = resume(folder, data=data, device=device, observers=[bar])
    _finish(run, report=report)


@contextmanager
def _continuable(folder: Path) -> Iterator[None]:
    """Say how the run continues if the user interrupts it."""
    try:
        yield
    except KeyboardInterrupt:
        if (folder / CONFIG).is_file():
            command = next_command("limelight", "text", "train", "--resume", folder)
            say(f"to continue: {command}")
        raise


def _finish(run: "TextRun", *, report: bool) -> None:
    if report:
        from pipeline.text.report import write_text_report

        say(f"report: {write_text_report(run)}")
    best = run.best
    say(
        f"best epoch {best.epoch}: validation loss {best.validation_loss:.4f}. Next: "
        f"{next_command('limelight', 'text', 'sample', run.folder)}"
    )
    print(run.folder)


@text.command("sample")
def write(
    model: Annotated[
        Path, typer.Argument(metavar="RUN", help="a run folder, or an ONNX file of text export")
    ],
    prompt: Annotated[str, typer.Option(help="how the text begins")] = "for thos",
    length: Annotated[int, typer.Option(min=1, help="characters to write")] = 400,
    temperature: Annotated[
        float, typer.Option(help="below 1 the likely characters become more likely")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="of the draws")] = 0,
    greedy: Annotated[bool, typer.Option("--greedy", help="always the likeliest")] = False,
) -> None:
    """Let a network write: draw one character after the other; prints the text.

    Example: limelight text sample runs/gru --prompt "for thos" --length 400 --temperature 1
    """
    if not model.exists():
        raise PipelineError(f"{model} is not there; name a run folder or an ONNX file")
    # torch takes seconds to import: what can be refused without it is refused before.
    from pipeline.text.sampling import written
    from pipeline.text.stepping import open_model

    opened = open_model(model)
    characters = written(
        opened.stepper,
        opened.vocabulary,
        prompt,
        length,
        window=opened.window,
        temperature=temperature,
        seed=seed,
        greedy=greedy,
    )
    first = next(characters)
    print(prompt, first, sep="", end="")
    for character in characters:
        print(character, end="", flush=True)
    print()


@text.command()
def export(
    run: Annotated[Path, typer.Argument(help="a run folder that `limelight text train` wrote")],
    to: Annotated[Path | None, typer.Option(help="default: model.onnx in the run folder")] = None,
) -> None:
    """Write a run's network as one ONNX file, its state as input and output; prints the file.

    Example: limelight text export runs/gru --to gru.onnx
    """
    _check_run(run)
    # torch takes seconds to import: what can be refused without it is refused before.
    from pipeline.text.onnx_file import export_text
    from pipeline.text.run import read_run

    file = to or run / "model.onnx"
    error = export_text(read_run(run), file)
    say(f"largest difference of a probability from torch's: {error:.1e}")
    print(file)


@text.command("report")
def write_report(
    run: Annotated[Path, typer.Argument(help="a run folder that `limelight text train` wrote")],
) -> None:
    """Write a run's report.html: curves, and samples at each cycle's end; prints its path.

    Example: limelight text report runs/gru
    """
    _check_run(run)
    # torch takes seconds to import: what can be refused without it is refused before.
    from pipeline.text.report import write_text_report
    from pipeline.text.run import read_run

    print(write_text_report(read_run(run)))


def _check_run(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise PipelineError(f"{folder} is not a run; name a folder that limelight text train wrote")
