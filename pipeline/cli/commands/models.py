"""List the models of a running service, and choose which of their versions it serves."""

import time
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.table import Table

from pipeline.cli.console import print_table, say
from pipeline.cli.management_port import URL, Url, ask

models = typer.Typer(help=__doc__, no_args_is_help=True)

_WATCH_S = 1.0
Name = Annotated[str, typer.Argument(help="name of a model")]


@models.command("list")
def list_models(url: Url = URL) -> None:
    """List models with their versions, labels, and what was refused.

    Example: limelight models list --url http://127.0.0.1:3001
    """
    _print(ask("GET", url, "/models"))


@models.command()
def activate(
    name: Name,
    version: Annotated[str, typer.Argument(help="a version, or latest to follow the newest")],
    url: Url = URL,
) -> None:
    """Let a version answer requests that name no version; returns when all workers serve it.

    Example: limelight models activate cifar10 8
    """
    _print(ask("POST", url, f"/models/{quote(name)}/activate", version=version))


@models.command()
def rollback(name: Name, url: Url = URL) -> None:
    """Activate the version that was active before.

    Example: limelight models rollback cifar10
    """
    _print(ask("POST", url, f"/models/{quote(name)}/rollback"))


@models.command()
def label(
    name: Name,
    label: Annotated[str, typer.Argument(help="such as stable or canary")],
    version: Annotated[str | None, typer.Argument(help="without one, the label is removed")] = None,
    url: Url = URL,
) -> None:
    """Name a version, so that requests can ask for it with ?version=LABEL.

    Example: limelight models label cifar10 stable 8
    """
    path = f"/models/{quote(name)}/labels/{quote(label)}"
    _print(ask("PUT", url, path, **({} if version is None else {"version": version})))


@models.command()
def watch(url: Url = URL) -> None:
    """Print each change of what is served, until Ctrl-C.

    Example: limelight models watch
    """
    shown = None
    while True:
        found = ask("GET", url, "/models")
        if found != shown:
            say(time.strftime("%H:%M:%S"))
            _print(found)
            shown = found
        time.sleep(_WATCH_S)


def _print(found: dict[str, Any]) -> None:
    table = Table()
    for heading in ("model", "version", "state", "labels"):
        table.add_column(heading)
    for model in found["models"]:
        for version in model["versions"]:
            labels = [label for label, each in model["labels"].items() if each == version]
            state = "active" if version == model["active"] else "served"
            table.add_row(model["name"], version, state, ", ".join(labels))
    for name in found["unloaded"]:
        table.add_row(name, "", "unloaded", "")
    for key, reason in found["refused"].items():
        table.add_row(*key.split("/"), f"refused: {reason}", "")
    print_table(table)
