"""Make API keys for a service, and the entries of its file of keys."""

import re
import sys
from typing import Annotated, Literal

import typer

from limelight.api_keys import NAME, SCOPES, entry, hash_key, new_key
from pipeline.console import say
from pipeline.errors import PipelineError

keys = typer.Typer(help=__doc__, no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="who uses the key; stands in logs and metrics")]
Scopes = Annotated[
    list[str], typer.Option("--scope", help=f"what the key may do: {', '.join(SCOPES)}; repeatable")
]
Rate = Annotated[
    float | None, typer.Option(min=0.001, help="requests per second; default: any number")
]
Share = Annotated[
    float | None, typer.Option(min=0.01, max=100, help="part of the time under load; default: 1")
]


@keys.command()
def new(
    name: Name,
    scope: Scopes = ["predict", "explain"],  # noqa: B006  # typer copies it
    rate: Rate = None,
    share: Share = None,
) -> None:
    """Make a key: its entry goes to the output, the key itself to the terminal (stderr).

    Example: limelight keys new shop --scope predict --rate 50 >> keys.toml
    """
    if not re.fullmatch(NAME, name):
        raise PipelineError(
            f"{name[:100]!r} is no name: use up to 64 letters, digits, dots, dashes and underscores"
        )
    scopes = [each for each in SCOPES if each in scope]
    if set(scope) - set(scopes):
        raise PipelineError(f"a scope is one of {', '.join(SCOPES)}, not {' or '.join(scope)}")
    key = new_key()
    print(entry(name, hash_key(key), scopes=scopes, rate=rate, share=share))
    say(f"the key of {name}, which is shown only now: {key}")


@keys.command("hash")
def hash_text(
    kind: Annotated[
        Literal["sha256", "scrypt"] | None,
        typer.Option(help="default: sha256 for a key of `new`, scrypt for one that you chose"),
    ] = None,
) -> None:
    """Print the hash of a key that is typed, or read from a pipe.

    Example: limelight keys hash < key.txt
    """
    if sys.stdin.isatty():
        key = typer.prompt("key", hide_input=True)
    else:
        key = sys.stdin.readline().rstrip("\r\n")
    try:
        print(hash_key(key, kind=kind))
    except ValueError as error:
        raise PipelineError(str(error)) from error
