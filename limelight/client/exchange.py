"""Requests, answers and the retry policy, which both clients share."""

import json
import os
import random
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import httpx
from PIL import Image as Picture

from limelight.client.errors import RefusedError, UnreachableError
from limelight.image_source import Encoded, encoded
from limelight.imaging.decoding import decode
from limelight.results import Explanation, Json, read

Image = Encoded | str | os.PathLike[str]
"""An encoded image, or the path of an image file."""
Parameter = str | int | float | bool | None
KEY_VARIABLE = "LIMELIGHT_API_KEY"
"""Environment variable with the API key of a client that is given none."""

_T = TypeVar("_T")
_RETRIED_STATUSES = frozenset({429, 502, 503, 504})
"""Statuses of temporary errors, after which a request is sent again."""
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.1, 5.0
_HEADER_CHARACTERS = re.compile(r"[\x21-\x7e]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Request that can be sent repeatedly."""

    method: str
    path: str
    params: Mapping[str, str | int | float]
    content: bytes | None = None
    accept: str = "application/json"

    def build(self, client: httpx.Client | httpx.AsyncClient, remaining_s: float) -> httpx.Request:
        """Build the request of one attempt."""
        headers = {"Accept": self.accept, "X-Timeout-Ms": f"{1000 * remaining_s:.0f}"}
        return client.build_request(
            self.method,
            self.path,
            params=dict(self.params),
            content=self.content,
            headers=headers,
            timeout=remaining_s,
        )


MODELS = Request(method="GET", path="/models", params={})


def image_request(
    path: str,
    image: Image,
    parameters: Mapping[str, Parameter],
    accept: str = "application/json",
) -> Request:
    """Build the request that posts an image; parameters that are None are left out.

    Raises:
        TypeError: `format` is among the parameters.
        OSError: the file cannot be read.
    """
    if "format" in parameters:
        raise TypeError("the format is that of the method: overlay returns a PNG, explain values")
    given = {name: value for name, value in parameters.items() if value is not None}
    return Request(method="POST", path=path, params=given, content=encoded(image), accept=accept)


def authorization(api_key: str | None) -> dict[str, str]:
    """Return the header with an API key, or with that of the environment; without one, none.

    Raises:
        ValueError: the key cannot be sent in a header. The message does not show it.
    """
    key = os.environ.get(KEY_VARIABLE) if api_key is None else api_key
    key = (key or "").strip()  # a file that has one ends with a line break
    if not _HEADER_CHARACTERS.fullmatch(key):
        raise ValueError(
            "the API key has spaces or characters outside of ASCII, which no key has: check "
            f"api_key or {KEY_VARIABLE}"
        )
    return {"Authorization": f"Bearer {key}"} if key else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Answer to one attempt."""

    status: int
    headers: httpx.Headers
    content: bytes

    @property
    def retry_after_s(self) -> float:
        """The Retry-After header in seconds; 0 if it is absent or a date."""
        text = self.headers.get("retry-after", "")
        return float(text) if text.isdecimal() else 0.0

    def checked(self) -> "Answer":
        """Return this answer if it is a success.

        Raises:
            RefusedError: it is not.
        """
        if 200 <= self.status < 300:
            return self
        try:
            problem = json.loads(self.content)
            raise RefusedError(self.status, str(problem["code"]), str(problem["detail"]))
        except (ValueError, KeyError, TypeError):
            raise self._foreign() from None

    def read(self, kind: type[_T]) -> _T:
        """Parse the JSON as `kind`.

        Raises:
            RefusedError: it is not an answer of the service.
        """
        try:
            return read(kind, json.loads(self.content))
        except ValueError:
            raise self._foreign() from None

    def models(self) -> list[Json]:
        """Parse the JSON of `/models`.

        Raises:
            RefusedError: it is not an answer of the service.
        """
        models = self.read(dict[str, object]).get("models")
        if not isinstance(models, list):
            raise self._foreign()
        return models

    def explanation(self, image: Image) -> Explanation:
        """Parse an explanation and attach its image, so that it can be drawn.

        Raises:
            RefusedError: it is not an answer of the service.
        """
        explanation = self.read(Explanation)
        for each in (explanation, explanation.zoom):
            if each is not None:
                each.attach(partial(_picture, image))
        return explanation

    def _foreign(self) -> RefusedError:
        text = self.content[:200].decode(errors="replace")
        return RefusedError(self.status, "unknown", f"not an answer of this service: {text!r}")


def _picture(image: Image) -> Picture.Image:
    return decode(encoded(image), max_pixels=sys.maxsize).image


class Attempts:
    """Retry policy of one request, within `timeout_s` and `retries`."""

    def __init__(self, timeout_s: float, retries: int) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._timeout_s, self._retries, self._made = timeout_s, retries, 0

    @property
    def remaining_s(self) -> float:
        """Seconds until the timeout, at least a thousandth."""
        return max(0.001, self._deadline - time.monotonic())

    def check_time(self, response: httpx.Response) -> None:
        """Check the timeout while an answer arrives; httpx limits only the time between two parts.

        Raises:
            httpx.ReadTimeout: the time is over.
        """
        if time.monotonic() > self._deadline:
            raise httpx.ReadTimeout("the answer arrives too slowly", request=response.request)

    def pause_after(self, answer: Answer) -> float | None:
        """Return the seconds to wait before the next attempt; None if this answer is final."""
        self._made += 1
        if answer.status not in _RETRIED_STATUSES:
            return None
        return self._pause_s(answer.retry_after_s)

    def pause_after_failure(self, error: httpx.RequestError) -> float:
        """Return the seconds to wait before the next attempt.

        Raises:
            UnreachableError: no time or attempt is left.
        """
        self._made += 1
        pause_s = self._pause_s()
        if pause_s is None:
            raise UnreachableError(
                f"no answer from {error.request.url.copy_with(query=None)} in {self._made} "
                f"attempts and {self._timeout_s:g} s: {error}"
            ) from error
        return pause_s

    def _pause_s(self, least_s: float = 0.0) -> float | None:
        jitter = random.uniform(0.5, 1.5)  # noqa: S311  # keeps clients from retrying in step
        pause_s = min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (self._made - 1)) * jitter
        pause_s = max(pause_s, least_s)
        in_time = pause_s < self._deadline - time.monotonic()
        return pause_s if self._made <= self._retries and in_time else None
