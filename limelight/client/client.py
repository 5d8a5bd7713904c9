"""A client of the service, for programs: typed answers, retries that honour Retry-After, batches.

    with Client("http://localhost:3000") as client:
        print(client.predict(Path("cat.png"), model="cifar10").label)

`AsyncClient` is the same with `await`. What the service refuses is raised as `RefusedError`, with
its stable code; a service that cannot be reached in time as `UnreachableError`.
"""

import asyncio
import itertools
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
"""An encoded image, or the file that holds one."""
Parameters = Mapping[str, str | int | float | bool | None]

_LATER = frozenset({429, 502, 503, 504})
"""Statuses that another attempt may not meet."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


class ClientError(Exception):
    """No answer; the message says why."""


class RefusedError(ClientError):
    """The service refused. `code` is stable (`undecodable_image`), `detail` says what to do."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{detail} ({status} {code})")
        self.status, self.code, self.detail = status, code, detail


class UnreachableError(ClientError):
    """Nobody answered within the time and the attempts allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ask:
    """One request, ready to be sent again and again."""

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
    """When to try again, and when to give up: within `timeout_s` and `retries`."""

    def __init__(self, timeout_s: float, retries: int) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._timeout_s, self._retries = timeout_s, retries

    @property
    def remaining_s(self) -> float:
        return max(0.001, self._deadline - time.monotonic())

    def pause_s(self, attempt: int, outcome: httpx.Response | httpx.TransportError) -> float | None:
        """Seconds to wait before the next attempt; None where this outcome is the last.

        Raises:
            UnreachableError: nobody answered, and there is no time or attempt left.
        """
        if isinstance(outcome, httpx.Response) and outcome.status_code not in _LATER:
            return None
        spread = random.uniform(0.5, 1.5)  # noqa: S311  # so that clients don't return together
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0**attempt) * spread
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
    """What both clients make of arguments and answers."""

    def __init__(self, *, timeout_s: float, retries: int) -> None:
        self._timeout_s, self._retries = timeout_s, retries

    def _attempts(self) -> _Attempts:
        return _Attempts(self._timeout_s, self._retries)

    @staticmethod
    def _image(
        path: str, image: Image, parameters: Parameters, accept: str = "application/json"
    ) -> _Ask:
        content = image if isinstance(image, bytes) else image.read_bytes()
        given = {name: value for name, value in parameters.items() if value is not None}
        return _Ask(method="POST", path=path, params=given, content=content, accept=accept)


class Client(_Shared):
    """Asks a service at `url`; safe to use from several threads.

    Args:
        url: where it listens, as in ``http://localhost:3000``.
        timeout_s: for each answer, all attempts and pauses included.
        retries: further attempts after a failed connection or a refusal that will pass.
        transport: instead of the network, for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 30.0,
        retries: int = 4,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(timeout_s=timeout_s, retries=retries)
        self._http = httpx.Client(base_url=url, transport=transport)

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
        """What is served: name, version, provider and manifest of each."""
        answer: Json = self._ask(_Ask(method="GET", path="/models", params={})).json()
        models: list[Json] = answer["models"]
        return models

    def predict(
        self, image: Image, *, model: str | None = None, top_k: int | None = None
    ) -> Prediction:
        """The most probable classes of an image.

        Raises:
            RefusedError: the image or a parameter, by the service.
            UnreachableError: no answer in time.
            OSError: the file cannot be read.
        """
        ask = self._image("/predict", image, {"model": model, "top_k": top_k})
        return read(Prediction, self._ask(ask).json())

    def explain(self, image: Image, **parameters: str | int | float | bool | None) -> Explanation:
        """The same with a map; `parameters` are those of `/explain`: target, method, model, ...

        Raises:
            RefusedError, UnreachableError, OSError: as with `predict`.
        """
        return _explanation(image, self._ask(self._image("/explain", image, parameters)))

    def overlay(self, image: Image, **parameters: str | int | float | bool | None) -> bytes:
        """The image with the map laid over it, as PNG; see `explain`."""
        ask = self._image("/explain", image, parameters, "image/png")
        return self._ask(ask).content

    def predict_many(
        self, images: Iterable[Image], *, model: str | None = None, concurrency: int = 8
    ) -> Iterator[Prediction | ClientError]:
        """Predictions in the order of `images`; what is refused takes its place in the row.

        The service runs what arrives together in one pass. At most twice `concurrency` images
        are held at a time.
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

    def _ask(self, ask: _Ask) -> httpx.Response:
        attempts = self._attempts()
        for attempt in itertools.count():
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = self._http.send(ask.build(self._http, attempts.remaining_s))
            except httpx.TransportError as error:
                outcome = error
            pause_s = attempts.pause_s(attempt, outcome)
            if pause_s is None:
                break
            time.sleep(pause_s)
        return _checked(outcome)


class AsyncClient(_Shared):
    """`Client` for programs with an event loop; its arguments are the same."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 30.0,
        retries: int = 4,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(timeout_s=timeout_s, retries=retries)
        self._http = httpx.AsyncClient(base_url=url, transport=transport)

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
        answer: Json = (await self._ask(_Ask(method="GET", path="/models", params={}))).json()
        models: list[Json] = answer["models"]
        return models

    async def predict(
        self, image: Image, *, model: str | None = None, top_k: int | None = None
    ) -> Prediction:
        """See `Client.predict`."""
        ask = self._image("/predict", image, {"model": model, "top_k": top_k})
        return read(Prediction, (await self._ask(ask)).json())

    async def explain(
        self, image: Image, **parameters: str | int | float | bool | None
    ) -> Explanation:
        """See `Client.explain`."""
        return _explanation(image, await self._ask(self._image("/explain", image, parameters)))

    async def overlay(self, image: Image, **parameters: str | int | float | bool | None) -> bytes:
        """See `Client.overlay`."""
        ask = self._image("/explain", image, parameters, "image/png")
        return (await self._ask(ask)).content

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

    async def _ask(self, ask: _Ask) -> httpx.Response:
        attempts = self._attempts()
        for attempt in itertools.count():
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = await self._http.send(ask.build(self._http, attempts.remaining_s))
            except httpx.TransportError as error:
                outcome = error
            pause_s = attempts.pause_s(attempt, outcome)
            if pause_s is None:
                break
            await asyncio.sleep(pause_s)
        return _checked(outcome)


def _explanation(image: Image, response: httpx.Response) -> Explanation:
    """Read an explanation, which can be shown with its image."""

    def picture() -> Picture.Image:
        content = image if isinstance(image, bytes) else image.read_bytes()
        return decode(content, max_pixels=sys.maxsize).image

    explanation = read(Explanation, response.json())
    for each in (explanation, explanation.zoom):
        if each is not None:
            each.attach(picture)
    return explanation


def _retry_after_s(response: httpx.Response) -> float:
    """What the header says, in seconds; its other form, a date, counts as nothing said."""
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
