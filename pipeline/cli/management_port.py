"""Requests to the management port of a running service."""

from typing import Annotated, Any

import httpx
import typer

from pipeline.errors import PipelineError

URL = "http://127.0.0.1:3001"
Url = Annotated[
    str,
    typer.Option(
        "--url", envvar="LIMELIGHT_ADMIN_URL", help="management port (LIMELIGHT_ADMIN_PORT)"
    ),
]
_SECONDS = 150.0


def ask(method: str, url: str, path: str, **query: str) -> dict[str, Any]:
    """Send a request, and return the answer.

    Raises:
        PipelineError: no management port answers, or it refuses the request.
    """
    try:
        answer = httpx.request(method, url.rstrip("/") + path, params=query, timeout=_SECONDS)
        content: dict[str, Any] = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise PipelineError(
            f"no management port answers at {url} ({error}): start the service with "
            "LIMELIGHT_ADMIN_PORT=3001, or give --url"
        ) from error
    if not answer.is_success:
        raise PipelineError(str(content.get("error", answer.text[:200])))
    return content
