"""Messages on standard error; standard output is for results."""

import logging
import shlex
from pathlib import Path

from rich.console import Console
from rich.table import Table

console = Console(stderr=True)

_ANY_WIDTH = 100_000


def say(message: str) -> None:
    """Print a message for the user."""
    console.print(message, highlight=False, soft_wrap=True, markup=False)


class LogHandler(logging.Handler):
    """Handler that prints each log record as a message for the user: `warning: ...`, not cut."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record."""
        say(f"{record.levelname.lower()}: {self.format(record)}")


def next_command(*words: str | Path, **environment: str | Path) -> str:
    """Return a command line to paste into a shell: words that need it are quoted.

    A `Path` stays as the user gave it, since the shell works in the same folder, unless it looks
    like an option or a home folder. `environment` are variables to set, by name.

    next_command("limelight", "export", Path("my runs")) -> "limelight export 'my runs'"
    """
    variables = (f"{name}={_quoted(value)}" for name, value in environment.items())
    return " ".join([*variables, *map(_quoted, words)])


def _quoted(word: str | Path) -> str:
    text = str(word)
    if isinstance(word, Path) and text.startswith(("-", "~")):
        text = str(word.absolute())
    return shlex.quote(text)


def print_table(table: Table) -> None:
    """Print a table on standard output; a file or a pipe gets it in full width, with no cell cut.

    In a terminal, give the columns that tell rows apart `overflow="fold"`.
    """
    output = Console()
    if not output.file.isatty():  # `is_terminal` is also true if colours are forced
        output.width = _ANY_WIDTH
    output.print(table)
