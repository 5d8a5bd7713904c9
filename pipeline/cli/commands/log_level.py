"""Show or set the log level of a running service."""

from typing import Annotated

import typer

from pipeline.cli.management_port import URL, Url, ask


def log_level(
    level: Annotated[
        str | None, typer.Argument(help="debug, info, warning or error; without one, show it")
    ] = None,
    url: Url = URL,
) -> None:
    """Show or set the log level of a running service; debug logs a line per request.

    Example: limelight log-level debug
    """
    query = {} if level is None else {"level": level}
    print(ask("GET" if level is None else "PUT", url, "/log-level", **query)["level"])
