"""Uploads of 40 million pixels and crafted files, at a service with the default settings.

`make test-uploads` runs this (minutes). It says how much memory and time each kind takes, and what
honest clients notice of 64 hostile ones. Two workers, and no limit but those of the service: the
measured memory is compared with the sizing rule, which the Kubernetes manifests follow.
"""

import asyncio
import collections
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from limelight.artifact.store import shipped_models
from service.process.memory import needed_bytes
from service.settings import Settings
from tests.hostile_images import crafted, large
from tests.service.http.listening import until
from tests.service.http.test_large_uploads import cost_of
from tests.service.test_operation import workers
from tests.serving_kit import REPOSITORY, Server, bentoml_serve

SIZE = 6320, 6320
LARGE = dict(large(SIZE))
# Kinds that are rejected at this size, with the code.
REJECTED = {
    "jpeg progressive 4:4:4": "image_too_large",
    "webp lossy alpha": "image_too_large",
    "png colour 16 bits": "image_too_complex",
    "png colour alpha 16 bits": "image_too_complex",
}
CRAFTED = dict(crafted())
MAX_BYTES, MAX_SECONDS = 200_000_000, 2.0
# Memory that a worker gains for other reasons: the body, the connection, and the forward pass.
SLACK_BYTES = 12_000_000
HOSTILE_CLIENTS, HONEST_CLIENTS, SECONDS = 64, 6, 60.0
PATHS = ("/predict", "/explain?format=png&model=cifar10", "/predict?model=cifar10")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("shipped")
    with bentoml_serve(
        shipped_models(), folder, LIMELIGHT_WORKERS="2", LIMELIGHT_DEFAULT_MODEL="digits"
    ) as server:
        seven = (REPOSITORY / "examples" / "seven.png").read_bytes()
        for _ in range(40):
            for path in PATHS:
                httpx.post(f"{server.url}{path}", content=seven, timeout=30)
        yield server


@pytest.mark.parametrize("name", LARGE)
def test_image_of_40_million_pixels(shipped: Server, name: str) -> None:
    body = LARGE[name]()
    if len(body) > Settings.model_fields["max_bytes"].default:
        pytest.skip(f"{len(body)} bytes are more than the service accepts")
    for path in ("/predict", "/explain?format=png&model=cifar10"):
        with cost_of(shipped) as found:
            response = httpx.post(f"{shipped.url}{path}", content=body, timeout=60)
        print(f"{name}, {path}: {found.bytes / 1e6:.0f} MB, {found.seconds:.2f} s")
        if name in REJECTED:
            assert response.json()["code"] == REJECTED[name]
        else:
            assert response.status_code == 200, response.text
        assert found.bytes <= MAX_BYTES + SLACK_BYTES
        assert found.seconds <= MAX_SECONDS


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_image(shipped: Server, name: str) -> None:
    with cost_of(shipped) as found:
        response = httpx.post(f"{shipped.url}/predict", content=CRAFTED[name](), timeout=60)
    assert response.status_code in (413, 422)
    assert found.bytes <= MAX_BYTES
    assert found.seconds <= MAX_SECONDS


def _honest() -> list[tuple[str, bytes]]:
    seven = (REPOSITORY / "examples" / "seven.png").read_bytes()
    with Image.open(REPOSITORY / "examples" / "cat.png") as opened:
        cat = opened.convert("RGB")
    jpeg, small = io.BytesIO(), io.BytesIO()
    cat.resize((512, 512)).save(jpeg, "JPEG")
    cat.resize((32, 32)).save(small, "PNG")
    predict = "/predict?model=cifar10"
    return [("/predict", seven), (predict, jpeg.getvalue()), (predict, small.getvalue())]


async def test_honest_clients_are_served_beside_64_hostile_ones(shipped: Server) -> None:
    before = workers(shipped)
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    resting = _memory(shipped)
    names = [
        *("png colour alpha", "png grey 16 bits", "png palette", "png interlaced", "gif"),
        *("jpeg progressive", "bmp black and white", "webp lossless alpha", "webp lossy"),
    ]
    bodies = [LARGE[name]() for name in names]
    bodies += [CRAFTED[name]() for name in ("jpeg scans", "png empty chunks", "jpeg comments")]
    honest = _honest()
    end = time.monotonic() + SECONDS
    outcomes: collections.Counter[int] = collections.Counter()
    seconds: list[float] = []
    watched: list[float] = []
    peak = 0

    async def attack(number: int) -> None:
        async with httpx.AsyncClient(base_url=shipped.url, timeout=60) as client:
            turn = number
            while time.monotonic() < end:
                turn += 1
                path = PATHS[turn % len(PATHS)]
                response = await client.post(path, content=bodies[turn % len(bodies)])
                outcomes[response.status_code] += 1

    async def visit(number: int) -> None:
        path, body = honest[number % len(honest)]
        async with httpx.AsyncClient(base_url=shipped.url, timeout=60) as client:
            while time.monotonic() < end:
                started = time.perf_counter()
                response = await client.post(path, content=body)
                seconds.append(time.perf_counter() - started)
                assert response.status_code == 200, response.text
                await asyncio.sleep(0.02)

    async def check() -> None:
        async with httpx.AsyncClient(base_url=shipped.url, timeout=60) as client:
            while time.monotonic() < end:
                for path in ("/readyz", "/livez", "/metrics", "/"):
                    started = time.perf_counter()
                    assert (await client.get(path)).status_code == 200
                    watched.append(time.perf_counter() - started)
                await asyncio.sleep(0.1)

    async def watch() -> None:
        nonlocal peak
        while time.monotonic() < end:
            peak = max(peak, _memory(shipped))
            await asyncio.sleep(0.05)

    await asyncio.gather(
        *(attack(number) for number in range(HOSTILE_CLIENTS)),
        *(visit(number) for number in range(HONEST_CLIENTS)),
        check(),
        watch(),
    )
    assert workers(shipped) == before, "a worker died"
    assert set(outcomes) <= {200, 413, 422, 503}
    p99_s, watched_s = (sorted(each)[int(len(each) * 0.99)] for each in (seconds, watched))
    print(f"{len(seconds)} honest requests, p99 {p99_s:.3f} s; hostile: {dict(outcomes)}")
    print(f"{len(watched)} health checks, metrics and pages, p99 {watched_s:.3f} s")
    needed = needed_bytes(Settings(), workers=2)
    print(f"memory: at rest {resting / 1e6:.0f}, most {peak / 1e6:.0f}, rule {needed / 1e6:.0f} MB")
    assert peak <= needed
    await until(lambda: _memory(shipped) <= resting * 1.1, 20)
    if busy > 1:
        pytest.skip(f"{busy:.1f} processes per core were running before: no times are compared")
    assert p99_s < 1
    assert watched_s < 1


def _memory(server: Server) -> int:
    """Return the memory of the parent and its workers; shared pages count once each process."""
    total = 0
    for pid in (server.process.pid, *workers(server)):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024
    return total
