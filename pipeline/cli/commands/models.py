"""List the models of a running service, and choose which of their versions it serves."""

import time
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.table import Table

from pipeline.cli.management_port import URL, Url, ask
from pipeline.console import print_table, say

models = typer.Typer(help=__doc__, no_args_is_help=True)

_WATCH_S = 1.0
Name = Annotated[str, typer.Argument(help="name of a model")]


def _fraction(given: str | float) -> float:
    """Parse "10%" or "0.1"; Typer also passes the default, a number."""
    text = str(given)
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a share like 10% nor a number like 0.1"
        ) from None
    return value / 100 if text.endswith("%") else value


Version = Annotated[str, typer.Argument(help="the version to try; it is loaded first")]
Promote = Annotated[bool, typer.Option("--promote", help="activate it if it keeps to the limits")]
MinRequests = Annotated[int, typer.Option(help="answers after which the limits are checked")]
MaxErrors = Annotated[
    float | None,
    typer.Option(parser=_fraction, metavar="SHARE", help="roll back above it, such as 1%"),
]


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
    version: Annotated[str | None, typer.Argument(help="the version that gets the label")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="remove the label instead")] = False,
    url: Url = URL,
) -> None:
    """Name a version, so that requests can ask for it with ?version=LABEL.

    Example: limelight models label cifar10 stable 8
    """
    path = f"/models/{quote(name)}/labels/{quote(label)}"
    if remove == (version is not None):
        raise typer.BadParameter("name the version that gets the label, or give --remove")
    if version is None:
        _print(ask("DELETE", url, path))
    else:
        _print(ask("PUT", url, path, version=version))


@models.command()
def canary(
    name: Name,
    version: Version,
    share: Annotated[
        float, typer.Option(parser=_fraction, metavar="SHARE", help="share of the clients")
    ] = 0.1,
    promote: Promote = False,
    min_requests: MinRequests = 1000,
    max_errors: MaxErrors = None,
    max_latency_ratio: Annotated[
        float | None, typer.Option(help="roll back above it: mean latency beside the active one's")
    ] = None,
    url: Url = URL,
) -> None:
    """Let a version answer a share of the clients; each client stays on its side.

    Example: limelight models canary cifar10 9 --share 10% --max-errors 1% --max-latency-ratio 1.5
    """
    limits = {"max_errors": max_errors, "max_latency_ratio": max_latency_ratio}
    _roll_out(url, name, "canary", version, share, promote, min_requests, limits)


@models.command()
def shadow(
    name: Name,
    version: Version,
    share: Annotated[
        float, typer.Option(parser=_fraction, metavar="SHARE", help="share of the requests")
    ] = 1.0,
    promote: Promote = False,
    min_requests: MinRequests = 1000,
    max_errors: MaxErrors = None,
    max_disagreement: Annotated[
        float | None,
        typer.Option(
            parser=_fraction, metavar="SHARE", help="end it above: images with another class"
        ),
    ] = None,
    url: Url = URL,
) -> None:
    """Compare a version with the active one on the same images, in idle time; it answers nobody.

    Example: limelight models shadow cifar10 9 --max-disagreement 5%
    """
    limits = {"max_errors": max_errors, "max_disagreement": max_disagreement}
    _roll_out(url, name, "shadow", version, share, promote, min_requests, limits)


@models.command()
def finish(name: Name, url: Url = URL) -> None:
    """End the canary or the shadow of a model; the active version answers everybody.

    Example: limelight models finish cifar10
    """
    _print(ask("DELETE", url, f"/models/{quote(name)}/rollout"))


@models.command()
def watch(url: Url = URL) -> None:
    """Print each change of what is served, until Ctrl-C.

    Example: limelight models watch
    """
    shown = None
    while True:
        found = ask("GET", url, "/models")
        if (served := _without_counts(found)) != shown:
            say(time.strftime("%H:%M:%S"))
            _print(found)
            shown = served
        time.sleep(_WATCH_S)


def _roll_out(
    url: str,
    name: str,
    kind: str,
    version: str,
    share: float,
    promote: bool,
    min_requests: int,
    limits: dict[str, float | None],
) -> None:
    query = {name: f"{limit:g}" for name, limit in limits.items() if limit is not None}
    query |= {"kind": kind, "version": version, "share": f"{share:g}"}
    query |= {"promote": str(promote).lower(), "min_requests": str(min_requests)}
    _print(ask("PUT", url, f"/models/{quote(name)}/rollout", **query))


def _without_counts(found: dict[str, Any]) -> list[Any]:
    """Return what is served, without the numbers of a rollout that change all the time."""
    models = [
        model | {"rollout": [(model["rollout"] or {}).get(key) for key in ("started", "ended")]}
        for model in found["models"]
    ]
    return [models, found["prepares"], found["unloaded"], found["refused"]]


def _print(found: dict[str, Any]) -> None:
    table = Table()
    for heading in ("model", "version", "state", "labels"):
        table.add_column(heading)
    for model in found["models"]:
        for version in model["versions"]:
            labels = [label for label, each in model["labels"].items() if each == version]
            state = "active" if version == model["active"] else "served"
            rollout = model["rollout"]
            if rollout and not rollout["ended"] and rollout["version"] == version:
                state = f"{rollout['kind']} {rollout['share']:.4g}"
            table.add_row(model["name"], version, state, ", ".join(labels))
    for name in found["unloaded"]:
        table.add_row(name, "", "unloaded", "")
    for key, reason in found["refused"].items():
        table.add_row(*key.split("/"), f"refused: {reason}", "")
    print_table(table)
    for model in found["models"]:
        if model["rollout"]:
            print(f"{model['name']}: {_told(model['rollout'])}")


def _told(rollout: dict[str, Any]) -> str:
    """Describe a rollout in one line."""
    if rollout["kind"] == "canary":
        numbers = (
            f"{rollout['requests']:,} answers, {rollout['errors']:,} failed; "
            f"active version: {rollout['champion_requests']:,} answers, "
            f"{rollout['champion_errors']:,} failed"
        )
        means = {"latency ratio": rollout["latency_ratio"]}
    else:
        numbers = (
            f"{rollout['compared']:,} images compared, {rollout['shed']:,} shed, "
            f"{rollout['failed']:,} failed"
        )
        means = {
            "same class": rollout["agreement"],
            "difference of probabilities": rollout["probability_difference"],
            "rank correlation of maps": rollout["map_correlation"],
        }
    known = "".join(f"; {key} {mean:.3f}" for key, mean in means.items() if mean is not None)
    end = f"; ended: {rollout['ended']}" if rollout["ended"] else ""
    return f"{rollout['kind']} of {rollout['version']}: {numbers}{known}{end}"
