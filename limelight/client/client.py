"""Client of the service: typed results, retries that honour Retry-After, concurrent requests.

    with Client("http://localhost:3000") as client:
        print(client.predict("cat.png", model="cifar10").label)

`AsyncClient` has the same methods as coroutines. If the service rejects a request, `RefusedError`
is raised with the service's stable error code. If the service cannot be reached in time,
`UnreachableError` is raised.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import httpx

from limelight.client.errors import ClientError
from limelight.client.exchange import (
    MODELS,
    Answer,
    Attempts,
    Image,
    Parameter,
    Request,
    authorization,
    image_request,
)
from limelight.results import Explanation, Json, Prediction


class Client:
    """Client of the service at `url`; safe to use from several threads.

    Args:
        url: address of the service, such as ``http://localhost:3000``.
        timeout_s: time limit of each answer, including all attempts and pauses.
        retries: further attempts after a failed connection or a temporary error.
        api_key: key for a service that asks for one; default: LIMELIGHT_API_KEY, if it is set. It
            goes to `url`, so that must be HTTPS wherever others can read along.
        transport: replacement for the network, for tests.

    Raises:
        ValueError: the key cannot be sent in a header.
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
        self._timeout_s, self._retries = timeout_s, retries
        headers = authorization(api_key)
        self._http = httpx.Client(base_url=url, headers=headers, transport=transport)

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
        return self._send(MODELS).models()

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
        return self._send(image_request("/predict", image, parameters)).read(Prediction)

    def explain(self, image: Image, **parameters: Parameter) -> Explanation:
        """Classify an image and compute the map of a class.

        `parameters` are the query parameters of `/explain`: target, method, model, version, ...

        Raises:
            RefusedError, UnreachableError, OSError: see `predict`.
        """
        return self._send(image_request("/explain", image, parameters)).explanation(image)

    def overlay(self, image: Image, **parameters: Parameter) -> bytes:
        """Return the image with the map as an overlay, encoded as PNG; see `explain`."""
        return self._send(image_request("/explain", image, parameters, "image/png")).content

    def predict_many(
        self, images: Iterable[Image], *, model: str | None = None, concurrency: int = 8
    ) -> Iterator[Prediction | ClientError | OSError]:
        """Classify images and yield the predictions in the order of `images`.

        Where a request fails or a file cannot be read, the error is yielded in place of the
        prediction. The service combines concurrent requests into one batch. At most twice
        `concurrency` images are in memory at a time. Whoever stops early waits for no answer.

        Raises:
            ValueError: `concurrency` is less than 1.
        """

        def one(image: Image) -> Prediction | ClientError | OSError:
            try:
                return self.predict(image, model=model)
            except (ClientError, OSError) as error:
                return error

        rest, pool = iter(images), ThreadPoolExecutor(concurrency)
        try:
            waiting = [pool.submit(one, each) for each in itertools.islice(rest, 2 * concurrency)]
            while waiting:
                yield waiting.pop(0).result()
                waiting += [pool.submit(one, each) for each in itertools.islice(rest, 1)]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _send(self, request: Request) -> Answer:
        attempts = Attempts(self._timeout_s, self._retries)
        while True:
            try:
                answer = self._attempt(request, attempts)
            except httpx.RequestError as error:
                time.sleep(attempts.pause_after_failure(error))
                continue
            pause_s = attempts.pause_after(answer)
            if pause_s is None:
                return answer.checked()
            time.sleep(pause_s)

    def _attempt(self, request: Request, attempts: Attempts) -> Answer:
        built = request.build(self._http, attempts.remaining_s)
        response = self._http.send(built, stream=True)
        try:
            parts = []
            for part in response.iter_bytes():
                parts.append(part)
                attempts.check_time(response)
        finally:
            response.close()
        return Answer(
            status=response.status_code, headers=response.headers, content=b"".join(parts)
        )


class AsyncClient:
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
        self._timeout_s, self._retries = timeout_s, retries
        headers = authorization(api_key)
        self._http = httpx.AsyncClient(base_url=url, headers=headers, transport=transport)

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
        return (await self._send(MODELS)).models()

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
        return (await self._send(image_request("/predict", image, parameters))).read(Prediction)

    async def explain(self, image: Image, **parameters: Parameter) -> Explanation:
        """See `Client.explain`."""
        answer = await self._send(image_request("/explain", image, parameters))
        return answer.explanation(image)

    async def overlay(self, image: Image, **parameters: Parameter) -> bytes:
        """See `Client.overlay`."""
        return (await self._send(image_request("/explain", image, parameters, "image/png"))).content

    async def predict_many(
        self, images: Iterable[Image], *, model: str | None = None, concurrency: int = 8
    ) -> AsyncIterator[Prediction | ClientError | OSError]:
        """See `Client.predict_many`."""
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}, and must be at least 1")

        async def one(image: Image) -> Prediction | ClientError | OSError:
            try:
                return await self.predict(image, model=model)
            except (ClientError, OSError) as error:
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

    async def _send(self, request: Request) -> Answer:
        attempts = Attempts(self._timeout_s, self._retries)
        while True:
            try:
                answer = await self._attempt(request, attempts)
            except httpx.RequestError as error:
                await asyncio.sleep(attempts.pause_after_failure(error))
                continue
            pause_s = attempts.pause_after(answer)
            if pause_s is None:
                return answer.checked()
            await asyncio.sleep(pause_s)

    async def _attempt(self, request: Request, attempts: Attempts) -> Answer:
        built = request.build(self._http, attempts.remaining_s)
        try:
            async with asyncio.timeout(attempts.remaining_s):
                response = await self._http.send(built)
        except TimeoutError as error:
            raise httpx.ReadTimeout("no answer in time", request=built) from error
        return Answer(
            status=response.status_code, headers=response.headers, content=response.content
        )
