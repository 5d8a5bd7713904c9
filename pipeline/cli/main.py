"""The command line `limelight`: a module for each command, in `pipeline/cli/commands/`.

It works with any extra of the package: a command whose extra is not installed says which it is.
"""

import ast
import logging
import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.home_folder import with_home_folder
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    import typer

COMMANDS = {
    "data": "train",
    "train": "train",
    "finetune": "train",
    "lr-find": "train",
    "convolve": "train",
    "text": "train",
    "ladder": "train",
    "ablate": "train",
    "summary": "train",
    "inspect": "train",
    "report": "train",
    "export": "train",
    "score": "score",
    "predict": "serve",
    "explain": "serve",
    "models": "serve",
    "log-level": "serve",
    "keys": "serve",
    "sign": "sign",
    "verify": "sign",
}
"""In the order of a first day, with the extra that each needs.

The module and the function have the command's name, with `_` for `-`.
"""
_HELP = "Train image classifiers that show what they looked at, and export them for serving."
_CONTEXT = {"help_option_names": ["-h", "--help"]}
_OURS = ("limelight", "models", "pipeline", "service")


def make_app(arguments: list[str]) -> "typer.Typer":
    """The command line, of which only the command that `arguments` name is loaded.

    torch alone takes seconds to import, and the list of commands needs none of it.
    """
    import typer

    app = typer.Typer(
        name="limelight",
        help=_HELP,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        context_settings=_CONTEXT,
        pretty_exceptions_enable=False,
    )
    for name in COMMANDS:
        command = _load(name) if arguments[:1] == [name] else _outline(name)
        if isinstance(command, typer.Typer):
            for info in command.registered_commands:
                info.callback = with_home_folder(info.callback) if info.callback else None
            app.add_typer(command, name=name, context_settings=_CONTEXT)
        else:
            app.command(name, context_settings=_CONTEXT)(with_home_folder(command))
    return app


def main() -> None:
    """Run the command line; an error is one line and exit status 1."""
    if "WORLD_SIZE" not in os.environ:
        _run()
        return
    status = 0
    try:
        _run()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    # DistributedDataParallel keeps threads of gloo after the end of their process group. If such a
    # thread still holds a tensor when the interpreter shuts down, it aborts the process. By now
    # all results have been written.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _run() -> None:
    if isinstance(sys.stdout, TextIOWrapper):
        # Paths that are not UTF-8 are printed as they are.
        sys.stdout.reconfigure(errors="surrogateescape")
    arguments = sys.argv[1:]
    if arguments[:1] == ["--version"]:
        print(f"limelight {version('limelight')}")
        return
    if find_spec("typer") is None or find_spec("rich") is None:
        sys.exit(_without_typer(arguments))
    from pipeline.cli.failures import run_command
    from pipeline.console import LogHandler

    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[LogHandler()])
    run_command(lambda: _run_named(arguments))


def _without_typer(arguments: list[str]) -> int:
    """List the commands, or say which extra the one that is asked for needs."""
    name = next(iter(arguments), "--help")
    if name in COMMANDS:
        print(f"error: {_needs(name, 'typer')}", file=sys.stderr)
        return 1
    print(f"Usage: limelight COMMAND [OPTIONS]\n\n{_HELP}\n\nCommands, and the extra of each:")
    for command, extra in COMMANDS.items():
        first = (_outline(command).__doc__ or "").splitlines()[0]
        print(f"  {command:10} {first} [{extra}]")
    print("\nInstall an extra with: pip install 'limelight[EXTRA]'")
    if name in ("--help", "-h"):
        return 0
    print(f"error: there is no command {name!r}", file=sys.stderr)
    return 2


def _needs(command: str, package: str) -> str:
    extra = COMMANDS[command]
    return (
        f"`limelight {command}` needs {package}, which is not installed: "
        f"pip install 'limelight[{extra}]'"
    )


def _run_named(arguments: list[str]) -> None:
    """Run a command. Some of its modules are imported only when it begins its work.

    Raises:
        PipelineError: a package is missing.

    """
    try:
        make_app(arguments)()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        name = next(iter(arguments), "")
        if package in _OURS or name not in COMMANDS:
            raise
        raise PipelineError(_needs(name, package)) from error


def _load(name: str) -> Any:
    """The function of a command, or its own command line."""
    function = name.replace("-", "_")
    return getattr(import_module(f"pipeline.cli.commands.{function}"), function)


def _outline(name: str) -> Callable[..., None]:
    """Return a stand-in for a command: its name and the first line of its help."""
    source = Path(__file__).parent / "commands" / f"{name.replace('-', '_')}.py"
    tree = ast.parse(source.read_text())
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    documented = {node.name: ast.get_docstring(node) for node in functions}

    def outline() -> None:
        raise NotImplementedError

    # A command with commands of its own says in its module's docstring what they do.
    outline.__doc__ = documented.get(name.replace("-", "_")) or ast.get_docstring(tree)
    return outline
