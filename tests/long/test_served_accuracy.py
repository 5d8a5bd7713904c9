"""`make test-accuracy`: the accuracy over HTTP equals the accuracy in the manifest.

Sends every test image of each shipped model, as PNG, to a real `bentoml serve`. The data must be in
the cache (`limelight data fetch`); a model without data is skipped.
"""

import asyncio
import io
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
from PIL import Image

from pipeline.data.registry import Split, load_dataset
from pipeline.errors import DataError
from service.settings import Settings
from tests.serving_kit import bentoml_serve

pytestmark = pytest.mark.timeout(1800)

MODELS = {
    "digits": "mnist",
    "digits-small": "mnist",
    "cifar10": "cifar10",
    "cifar10-small": "cifar10",
}
# `auto` is int8 for the models that have such a graph, where it is faster.
PRECISIONS = ("float32", "auto")
ROUNDING = {"float32": 0, "int8": 10, "float16": 30}
"""Largest difference from the manifest in right predictions, of 10,000: other processors round
otherwise, and a float16 graph has the figure of float32."""
CONNECTIONS = 32
JPEG_IMAGES = 1000


@dataclass(frozen=True)
class Service:
    """A service with the shipped models, and the precision that was asked of it."""

    url: str
    asked: str


@pytest.fixture(scope="module", params=PRECISIONS)
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("serving")
    with bentoml_serve(Settings().models, folder, LIMELIGHT_PRECISION=request.param) as running:
        yield Service(running.url, request.param)


@pytest.mark.parametrize("model", sorted(MODELS))
def test_accuracy_over_http_equals_the_manifest(model: str, service: Service) -> None:
    try:
        test = load_dataset(MODELS[model]).test
    except DataError as error:
        pytest.skip(str(error))
    found = httpx.get(f"{service.url}/models/{model}").json()
    manifest, precision = found["manifest"], found["precision"]
    if precision == "float32" and service.asked == "auto":
        pytest.skip(f"{model} is served in float32, as in the other test")
    metrics = manifest["int8" if precision == "int8" else "metrics"]
    answers = asyncio.run(_predict_all(service.url, model, test, "PNG"))
    right = sum(answer == label for answer, label in zip(answers, test.labels, strict=True))
    expected = round(metrics["accuracy"] * metrics["images"])
    print(f"\n{model}, {precision}: {right:,} right over HTTP, {expected:,} in the manifest")
    assert len(test) == metrics["images"]
    assert right == pytest.approx(expected, abs=ROUNDING[precision])


@pytest.mark.parametrize(("quality", "most_lost"), [(75, 0.04), (50, 0.07)])
def test_jpeg_costs_little_accuracy(quality: int, most_lost: float, service: Service) -> None:
    """Pillow halves the resolution of the colours (4:2:0), as cameras and browsers do."""
    try:
        test = load_dataset("cifar10").test.take(np.arange(JPEG_IMAGES))
    except DataError as error:
        pytest.skip(str(error))
    right = {}
    for form in ("PNG", "JPEG"):
        answers = asyncio.run(_predict_all(service.url, "cifar10", test, form, quality))
        right[form] = float(np.mean(answers == test.labels))
    print(f"\ncifar10, {len(test):,} images: {right}, JPEG of quality {quality}")
    assert right["JPEG"] >= right["PNG"] - most_lost


async def _predict_all(
    url: str, model: str, test: Split, form: str, quality: int = 75
) -> list[int]:
    limits = httpx.Limits(max_connections=CONNECTIONS)
    free = asyncio.Semaphore(CONNECTIONS)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client:

        async def predict(index: int) -> int:
            async with free:
                response = await client.post(
                    "/predict",
                    params={"model": model, "top_k": 1},
                    content=_encoded(test, index, form, quality),
                    headers={"Content-Type": f"image/{form.lower()}"},
                )
            response.raise_for_status()
            return int(response.json()["index"])

        return await asyncio.gather(*map(predict, range(len(test))))


def _encoded(test: Split, index: int, form: str, quality: int) -> bytes:
    pixels = test.images[:][index]
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    image.save(buffer, form, compress_level=1, quality=quality)
    return buffer.getvalue()
