"""Messages on standard error; standard output is for results."""

from rich.console import Console

console = Console(stderr=True)


def say(message: str) -> None:
    """Print a message for the user."""
    console.print(message, highlight=False, soft_wrap=True, markup=False)
