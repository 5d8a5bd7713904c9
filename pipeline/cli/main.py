"""The command line `limelight`: a module for each command, in `pipeline/cli/commands/`."""

import ast
import logging
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import typer
from rich.console import Console
from rich.logging import RichHandler

from pipeline.cli.commands.data import data
from pipeline.errors import PipelineError

COMMANDS = (
    "train", "finetune", "lr-find", "ladder", "ablate", "summary", "inspect", "report", "export",
    "score", "predict", "explain",
)  # fmt: skip
"""In the order of a first day. The module and the function have the same name, with `_` for `-`."""


def make_app(arguments: list[str]) -> typer.Typer:
    """The command line, of which only the command that `arguments` name is loaded.

    torch alone takes seconds to import, and the list of commands needs none of it.
    """
    app = typer.Typer(
        name="limelight",
        help="Train image classifiers that show what they looked at, and export them for serving.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
    )
    app.add_typer(data, name="data")
    for name in COMMANDS:
        app.command(name)(_load(name) if arguments[:1] == [name] else _outline(name))
    return app


def main() -> None:
    """Run the command line; an error is one line and exit status 1."""
    console = Console(stderr=True)
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console)]
    )
    try:
        make_app(sys.argv[1:])()
    except PipelineError as error:
        # Of the processes that train together one speaks.
        if os.environ.get("RANK", "0") == "0":
            console.print(f"[bold red]error:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)


def _load(name: str) -> Callable[..., None]:
    function = name.replace("-", "_")
    command: Callable[..., None] = getattr(
        import_module(f"pipeline.cli.commands.{function}"), function
    )
    return command


def _outline(name: str) -> Callable[..., None]:
    """What the list of commands needs of one: a name and the first line of its help."""
    function = name.replace("-", "_")
    source = Path(__file__).parent / "commands" / f"{function}.py"
    definitions = {
        node.name: node
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }

    def outline() -> None:
        raise NotImplementedError

    outline.__doc__ = ast.get_docstring(definitions[function])
    return outline
