"""Client of the service: typed results, retries that honour Retry-After, concurrent requests.

    with Client("http://localhost:3000") as client:
        print(client.predict(Path("cat.png"), model="cifar10").label)

`AsyncClient` has the same methods as coroutines. If the service rejects a request, `RefusedError`
is raised with the service's stable error code. If the service cannot be reached in time,
`UnreachableError` is raised.
"""

import asyncio
import itertools
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from PIL import Image as Picture

from limelight.imaging.decoding import decode
from limelight.results import Explanation, Json, Prediction, read

Image = bytes | Path
"""An encoded image, or the path of an image file."""
KEY_VARIABLE = "LIMELIGHT_API_KEY"
"""Environment variable with the API key of a client that is given none."""
Parameters = Mapping[str, str | int | float | bool | None]

_RETRIED_STATUSES = frozenset({429, 502, 503, 504})
"""Statuses of temporary errors, after which a request is sent again."""
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.1, 5.0


class ClientError(Exception):
    """Base class of the client's errors; the message says why there is no result."""


class RefusedError(ClientError):
    """The service rejected the request.

    `code` is the service's stable error code (such as `undecodable_image`); `detail` says what to
    do.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{detail} ({status} {code})")
        self.status, self.code, self.detail = status, code, detail


class UnreachableError(ClientError):
    """No answer arrived within the timeout and the number of attempts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    """Request that can be sent repeatedly."""

    method: str
    path: str
    params: Mapping[str, str | int | float]
    content: bytes | None = None
    accept: str = "application/json"

    def build(self, client: httpx.Client | httpx.AsyncClient, remaining_s: float) -> httpx.Request:
        headers = {"Accept": self.accept, "X-Timeout-Ms": f"{1000 * remaining_s:.0f}"}
        return client.build_request(
            self.method,
            self.path,
            params=dict(self.params),
            content=self.content,
            headers=headers,
            timeout=remaining_s,
        )


class _Attempts:
    """Retry policy of one request, within `timeout_s` and `retries`."""

    def __init__(self, timeout_s: float, retries: int) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._timeout_s, self._retries = timeout_s, retries

    @property
    def remaining_s(self) -> float:
        return max(0.001, self._deadline - time.monotonic())

    def pause_s(self, attempt: int, outcome: httpx.Response | httpx.TransportError) -> float | None:
        """Return the seconds to wait before the next attempt; None if this outcome is final.

        Raises:
            UnreachableError: no answer arrived, and no time or attempt is left.
        """
        if isinstance(outcome, httpx.Response) and outcome.status_code not in _RETRIED_STATUSES:
            return None
        jitter = random.uniform(0.5, 1.5)  # noqa: S311  # keeps clients from retrying in step
        pause_s = min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2.0**attempt) * jitter
        if isinstance(outcome, httpx.Response):
            pause_s = max(pause_s, _retry_after_s(outcome))
        if attempt < self._retries and pause_s < self._deadline - time.monotonic():
            return pause_s
        if isinstance(outcome, httpx.Response):
            return None
        raise UnreachableError(
            f"no answer from {outcome.request.url.copy_with(query=None)} in {attempt + 1} "
            f"attempts and {self._timeout_s:g} s: {outcome}"
        ) from outcome


class _Shared:
    """Base class of both clients: options, and conversion of arguments to requests."""

    def __init__(self, *, timeout_s: float, retries: int, api_key: str | None) -> None:
        self._timeout_s, self._retries = timeout_s, retries
        key = os.environ.get(KEY_VARIABLE) if api_key is None else api_key
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def _attempts(self) -> _Attempts:
        return _Attempts(self._timeout_s, self._retries)

    @staticmethod
    def _image(
        path: str, image: Image, parameters: Parameters, accept: str = "application/json"
    ) -> _Request:
        content = image if isinstance(image, bytes) else image.read_bytes()
        given = {name: value for name, value in parameters.items() if value is not None}
        return _Request(method="POST", path=path, params=given, content=content, accept=accept)


class Client(_Shared):
    """Client of the service at `url`; safe to use from several threads.

    Args:
        url: address of the service, such as ``http://localhost:3000``.
        timeout_s: time limit of each answer, including all attempts and pauses.
        retries: further attempts after a failed connection or a temporary error.
        api_key: key for a service that asks for one; default: LIMELIGHT_API_KEY, if it is set. It
            goes to `url`, so that must be HTTPS wherever others can read along.
        transport: replacement for the network, for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 30.0,
        retries: int = 4,
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(timeout_s=timeout_s, retries=retries, api_key=api_key)
        self._http = httpx.Client(base_url=url, headers=self._headers, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def models(self) -> list[Json]:
        """List the served models: name, version, provider and manifest of each."""
        answer: Json = self._send(_Request(method="GET", path="/models", params={})).json()
        models: list[Json] = answer["models"]
        return models

    def predict(
        self,
        image: Image,
        *,
        model: str | None = None,
        version: str | None = None,
        top_k: int | None = None,
    ) -> Prediction:
        """Classify an image, by the default model and its newest version unless they are given.

        Raises:
            RefusedError: the service rejects the image or a parameter.
            UnreachableError: no answer arrived in time.
            OSError: the file cannot be read.
        """
        parameters = {"model": model, "version": version, "top_k": top_k}
        request = self._image("/predict", image, parameters)
        return read(Prediction, self._send(request).json())

    def explain(self, image: Image, **parameters: str | int | float | bool | None) -> Explanation:
        """Classify an image and compute the map of a class.

        `parameters` are the query parameters of `/explain`: target, method, model, version, ...

        Raises:
            RefusedError, UnreachableError, OSError: see `predict`.
        """
        return _explanation(image, self._send(self._image("/explain", image, parameters)))

    def overlay(self, image: Image, **parameters: str | int | float | bool | None) -> bytes:
        """Return the image with the map as an overlay, encoded as PNG; see `explain`."""
        request = self._image("/explain", image, parameters, "image/png")
        return self._send(request).content

    def predict_many(
        self, images: Iterable[Image], *, model: str | None = None, concurrency: int = 8
    ) -> Iterator[Prediction | ClientError]:
        """Classify images and yield the predictions in the order of `images`.

        Where a request fails, its error is yielded in place of the prediction. The service combines
        concurrent requests into one batch. At most twice `concurrency` images are in memory at a
        time.
        """

        def one(image: Image) -> Prediction | ClientError:
            try:
                return self.predict(image, model=model)
            except ClientError as error:
                return error

        rest = iter(images)
        with ThreadPoolExecutor(concurrency) as pool:
            waiting = [pool.submit(one, each) for each in itertools.islice(rest, 2 * concurrency)]
            while waiting:
                yield waiting.pop(0).result()
                waiting += [pool.submit(one, each) for each in itertools.islice(rest, 1)]

    def _send(self, request: _Request) -> httpx.Response:
        attempts = self._attempts()
        for attempt in itertools.count():
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = self._http.send(request.build(self._http, attempts.remaining_s))
            except httpx.TransportError as error:
                outcome = error
            pause_s = attempts.pause_s(attempt, outcome)
            if pause_s is None:
                break
            time.sleep(pause_s)
        return _checked(outcome)


class AsyncClient(_Shared):
    """Asynchronous client of the service; its arguments are those of `Client`."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 30.0,
        retries: int = 4,
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(timeout_s=timeout_s, retries=retries, api_key=api_key)
        self._http = httpx.AsyncClient(base_url=url, headers=self._headers, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def models(self) -> list[Json]:
        """See `Client.models`."""
        answer: Json = (await self._send(_Request(method="GET", path="/models", params={}))).json()
        models: list[Json] = answer["models"]
        return models

    async def predict(
        self,
        image: Image,
        *,
        model: str | None = None,
        version: str | None = None,
        top_k: int | None = None,
    ) -> Prediction:
        """See `Client.predict`."""
        parameters = {"model": model, "version": version, "top_k": top_k}
        request = self._image("/predict", image, parameters)
        return read(Prediction, (await self._send(request)).json())

    async def explain(
        self, image: Image, **parameters: str | int | float | bool | None
    ) -> Explanation:
        """See `Client.explain`."""
        return _explanation(image, await self._send(self._image("/explain", image, parameters)))

    async def overlay(self, image: Image, **parameters: str | int | float | bool | None) -> bytes:
        """See `Client.overlay`."""
        request = self._image("/explain", image, parameters, "image/png")
        return (await self._send(request)).content

    async def predict_many(
        self, images: Iterable[Image], *, model: str | None = None, concurrency: int = 8
    ) -> AsyncIterator[Prediction | ClientError]:
        """See `Client.predict_many`."""

        async def one(image: Image) -> Prediction | ClientError:
            try:
                return await self.predict(image, model=model)
            except ClientError as error:
                return error

        rest = iter(images)
        waiting = [asyncio.ensure_future(one(each)) for each in itertools.islice(rest, concurrency)]
        try:
            while waiting:
                yield await waiting.pop(0)
                waiting += [asyncio.ensure_future(one(each)) for each in itertools.islice(rest, 1)]
        finally:
            for task in waiting:
                task.cancel()

    async def _send(self, request: _Request) -> httpx.Response:
        attempts = self._attempts()
        for attempt in itertools.count():
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = await self._http.send(request.build(self._http, attempts.remaining_s))
            except httpx.TransportError as error:
                outcome = error
            pause_s = attempts.pause_s(attempt, outcome)
            if pause_s is None:
                break
            await asyncio.sleep(pause_s)
        return _checked(outcome)


def _explanation(image: Image, response: httpx.Response) -> Explanation:
    """Parse an explanation and attach its image, so that it can be drawn."""

    def picture() -> Picture.Image:
        content = image if isinstance(image, bytes) else image.read_bytes()
        return decode(content, max_pixels=sys.maxsize).image

    explanation = read(Explanation, response.json())
    for each in (explanation, explanation.zoom):
        if each is not None:
            each.attach(picture)
    return explanation


def _retry_after_s(response: httpx.Response) -> float:
    """Return the Retry-After header in seconds; 0 if it is absent or a date."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else 0.0


def _checked(outcome: httpx.Response | httpx.TransportError) -> httpx.Response:
    if isinstance(outcome, httpx.TransportError):
        raise outcome
    if outcome.is_success:
        return outcome
    try:
        problem = outcome.json()
        code, detail = problem["code"], problem["detail"]
    except (ValueError, KeyError, TypeError):
        code, detail = "unknown", f"not an answer of this service: {outcome.text[:200]!r}"
    raise RefusedError(outcome.status_code, code, detail)
