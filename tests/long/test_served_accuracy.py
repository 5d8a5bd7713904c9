"""`make test-accuracy`: the accuracy over HTTP equals the accuracy in the manifest.

Sends every test image of each shipped model, as PNG, to a real `bentoml serve`. The data must be in
the cache (`limelight data fetch`); a model without data is skipped.
"""

import asyncio
import io
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image

from pipeline.data.registry import Split, load_dataset
from pipeline.errors import DataError
from service.settings import Settings
from tests.serving_kit import Server, bentoml_serve

pytestmark = pytest.mark.timeout(1800)

MODELS = {"digits": "mnist", "cifar10": "cifar10"}
CONNECTIONS = 32


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with bentoml_serve(Settings().models, tmp_path_factory.mktemp("serving")) as running:
        yield running


@pytest.mark.parametrize("model", sorted(MODELS))
def test_accuracy_over_http_equals_the_manifest(model: str, server: Server) -> None:
    try:
        test = load_dataset(MODELS[model]).test
    except DataError as error:
        pytest.skip(str(error))
    manifest = httpx.get(f"{server.url}/models/{model}").json()["manifest"]
    answers = asyncio.run(_predict_all(server.url, model, test))
    right = sum(answer == label for answer, label in zip(answers, test.labels, strict=True))
    expected = round(manifest["metrics"]["accuracy"] * manifest["metrics"]["images"])
    print(f"\n{model}: {right:,} of {len(test):,} right over HTTP, {expected:,} in the manifest")
    assert len(test) == manifest["metrics"]["images"]
    assert right == expected


async def _predict_all(url: str, model: str, test: Split) -> list[int]:
    limits = httpx.Limits(max_connections=CONNECTIONS)
    free = asyncio.Semaphore(CONNECTIONS)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client:

        async def predict(index: int) -> int:
            async with free:
                response = await client.post(
                    "/predict",
                    params={"model": model, "top_k": 1},
                    content=_png(test, index),
                    headers={"Content-Type": "image/png"},
                )
            response.raise_for_status()
            return int(response.json()["index"])

        return await asyncio.gather(*map(predict, range(len(test))))


def _png(test: Split, index: int) -> bytes:
    pixels = test.images[index]
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
