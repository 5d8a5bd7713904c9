"""The terminal: messages on standard error; standard output is for results."""

from rich.console import Console

console = Console(stderr=True)


def say(message: str) -> None:
    """A line for a person."""
    console.print(message, highlight=False, soft_wrap=True, markup=False)
