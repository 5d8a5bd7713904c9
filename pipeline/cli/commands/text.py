"""Train character language models, and let them write."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.text.options import ARCHITECTURES
from pipeline.cli.console import next_command, say
from pipeline.cli.training_options import Device, Out, Report, Set, parse_settings
from pipeline.data.text_files import TEXTS
from pipeline.errors import PipelineError
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
    seed: Annotated[int, typer.Option(help="of the weights, the order and the dropout")] = 0,
    device: Device = "auto",
    settings: Set = None,
    report: Report = True,
) -> None:
    """Train a network on a text and write a run folder; prints its path.

    Example: limelight text train char-gru nietzsche --out runs/gru
    """
    if resume is not None:
        _reject_options_of_a_run(context)
        _resume(resume, data=data, device=device, report=report)
        return
    if network is None or file is None:
        raise PipelineError("name a network and a text, or a run to --resume")
    if data is not None:
        raise PipelineError("--data is for --resume: name the text itself")
    changes = parse_settings(settings)
    changes |= {"epochs": epochs or changes.get("epochs")}
    changes |= {"schedule__peak": lr or changes.get("schedule__peak")}
    recipe = TextRecipe.load(network, **changes)
    text_file(file)
    # torch takes seconds to import: the command line is checked before.
    from pipeline.cli.text_bar import text_bar
    from pipeline.text.corpus import read_corpus
    from pipeline.text.run import begin

    corpus = read_corpus(file, validation=recipe.validation)
    say(
        f"{file}: {len(corpus.vocabulary)} characters, {len(corpus.training):,} to fit, "
        f"{len(corpus.validation):,} to validate on"
    )
    folder = out or Path("runs") / f"{Path(network).stem}-{datetime.now():%Y%m%d-%H%M%S}"
    with text_bar() as bar:
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
    from pipeline.cli.text_bar import text_bar
    from pipeline.text.run import resume

    with text_bar() as bar:
        run = resume(folder, data=data, device=device, observers=[bar])
    _finish(run, report=report)


def _reject_options_of_a_run(context: typer.Context) -> None:
    """Reject options that a run has already, instead of ignoring them."""
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if name not in _WITH_RESUME and source is not None and source.name == "COMMANDLINE":
            raise PipelineError(
                f"--resume continues with the options that the run began with: leave out "
                f"{name.upper() if name in ('network', 'file') else max(parameter.opts, key=len)}"
            )


def _finish(run: "TextRun", *, report: bool) -> None:
    best = run.best
    say(
        f"best epoch {best.epoch}: validation loss {best.validation_loss:.4f}. Next: "
        f"{next_command('limelight', 'text', 'sample', run.folder)}"
    )
    print(run.folder)
