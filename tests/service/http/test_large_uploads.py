"""Uploads that cost much to decode, at a real service: memory, time, and what goes on beside them.

The limits are those of the defaults, for an eighth of the pixels.
"""

import base64
import concurrent.futures
import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.hostile_images import crafted, large, png
from tests.service.http.test_routes import PNG, expect_problem
from tests.service.test_operation import workers
from tests.serving_kit import Server, bentoml_serve

SIZE = 2500, 2000
PIXELS = SIZE[0] * SIZE[1]
PICTURE_PIXELS = PIXELS // 10
DECODED_BYTES = 5 * PIXELS + 5_000_000
LARGE = dict(large(SIZE))
# Kinds that need more memory than decoding one image may take.
TOO_LARGE = {"jpeg progressive 4:4:4", "webp lossy alpha"}
CRAFTED = dict(crafted())
# Memory that a worker gains for other reasons: the body, the connection, and the forward pass.
SLACK_BYTES = 12_000_000

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc of the worker")


@pytest.fixture(scope="module")
def narrow(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with bentoml_serve(
        zoo,
        tmp_path_factory.mktemp("narrow"),
        LIMELIGHT_WORKERS="1",
        LIMELIGHT_MAX_PIXELS=str(PIXELS),
        LIMELIGHT_MAX_PICTURE_PIXELS=str(PICTURE_PIXELS),
        LIMELIGHT_MAX_DECODED_BYTES=str(DECODED_BYTES),
    ) as server:
        for path in ("/predict", "/explain?format=png"):
            for model in ("colours", "digits"):
                query = "&" if "?" in path else "?"
                httpx.post(f"{server.url}{path}{query}model={model}", content=PNG)
        yield server


@pytest.fixture(scope="module")
def visitor(narrow: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=narrow.url, timeout=30) as client:
        yield client


class Cost:
    """Memory and processor time that the workers take in a block."""

    bytes = 0
    seconds = 0.0


@contextmanager
def cost_of(server: Server) -> Iterator[Cost]:
    """Measure a block in which the service answers one request at a time."""
    processes = [Path(f"/proc/{worker}") for worker in workers(server)]

    def memory(process: Path, field: str) -> int:
        lines = (process / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024

    def seconds(process: Path) -> float:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before, started = 0, 0.0
    for process in processes:
        (process / "clear_refs").write_text("5")  # the peak is that of the block
        before += memory(process, "VmRSS")
        started += seconds(process)
    found = Cost()
    yield found
    found.bytes = sum(memory(process, "VmHWM") for process in processes) - before
    found.seconds = sum(seconds(process) for process in processes) - started


@pytest.mark.parametrize("name", LARGE)
def test_large_image_takes_no_more_than_its_share(
    narrow: Server, visitor: httpx.Client, name: str
) -> None:
    body = LARGE[name]()
    for path in ("/predict?model=digits", "/explain?format=png"):
        with cost_of(narrow) as found:
            response = visitor.post(path, content=body)
        if name in TOO_LARGE:
            expect_problem(response, 413, "image_too_large")
        else:
            assert response.status_code == 200, response.text
        assert found.bytes <= DECODED_BYTES + SLACK_BYTES
        assert found.seconds <= 1


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_image_is_rejected_at_once(
    narrow: Server, visitor: httpx.Client, name: str
) -> None:
    body = CRAFTED[name]()
    for path in ("/predict", "/explain?format=png"):
        with cost_of(narrow) as found:
            response = visitor.post(path, content=body)
        assert response.status_code in (413, 422), response.text
        assert response.json()["code"] in ("image_too_complex", "image_too_large")
        assert found.seconds <= 0.5


def infer(client: httpx.Client, bodies: list[bytes], *outputs: str) -> httpx.Response:
    data = [base64.b64encode(body).decode() for body in bodies]
    tensor = {"name": "image_bytes", "datatype": "BYTES", "shape": [len(data)], "data": data}
    request = {"inputs": [tensor], "outputs": [{"name": name} for name in outputs]}
    return client.post("/v2/models/colours/infer", json=request)


def test_images_of_one_inference_request_count_together(
    narrow: Server, visitor: httpx.Client
) -> None:
    body = png(SIZE)
    with cost_of(narrow) as found:
        response = infer(visitor, [body] * 32, "probabilities")
        assert response.status_code == 422
        assert "all images of the request" in response.json()["error"]
        assert infer(visitor, [body] * 8, "probabilities").status_code == 200
    assert found.bytes <= DECODED_BYTES + SLACK_BYTES
    with cost_of(narrow) as found:
        response = infer(visitor, [body] * 4, "overlay_png")
        assert response.status_code == 200, response.text
    assert found.bytes <= DECODED_BYTES + SLACK_BYTES
    assert found.seconds <= 2


def test_deadline_is_looked_at_between_the_images_of_a_request(visitor: httpx.Client) -> None:
    body = png(SIZE)
    data = [base64.b64encode(body).decode()] * 8
    tensor = {"name": "image_bytes", "datatype": "BYTES", "shape": [8], "data": data}
    started = time.perf_counter()
    response = visitor.post(
        "/v2/models/colours/infer",
        json={"inputs": [tensor], "outputs": [{"name": "probabilities"}]},
        headers={"X-Timeout-Ms": "250"},
    )
    assert response.status_code in (408, 503)
    assert time.perf_counter() - started < 5


def test_picture_of_a_large_upload_is_reduced_and_its_map_lies_in_place(
    visitor: httpx.Client,
) -> None:
    image = Image.new("RGB", SIZE, "blue")
    image.paste("red", (0, 0, SIZE[0] // 2, SIZE[1]))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    body = stream.getvalue()
    options = {"format": "png", "target": "red", "opacity": "1"}
    response = visitor.post("/explain", params=options, content=body)
    with Image.open(io.BytesIO(response.content)) as picture:
        width, height = picture.size
        assert PICTURE_PIXELS / 4 < width * height <= PICTURE_PIXELS
        assert width / height == pytest.approx(SIZE[0] / SIZE[1], rel=0.02)
        # Bright where the image is red, and dark where it is not.
        red, blue = (
            picture.getpixel((width // 3, height // 2)),
            picture.getpixel((width * 2 // 3, height // 2)),
        )
    assert red != blue
    view = visitor.post("/explain", content=body).json()["view"]
    assert view == [250.0, 0.0, 2250.0, 2000.0]


def test_others_are_answered_while_large_images_are_decoded(
    narrow: Server, visitor: httpx.Client
) -> None:
    (worker,) = workers(narrow)
    body = png(SIZE)

    def upload(_: int) -> httpx.Response:
        return httpx.post(f"{narrow.url}/explain?format=png", content=body, timeout=60)

    slowest = 0.0
    with concurrent.futures.ThreadPoolExecutor(12) as clients:
        uploads = [clients.submit(upload, number) for number in range(12)]
        while not all(each.done() for each in uploads):
            for path in ("/readyz", "/metrics", "/", "/livez"):
                started = time.perf_counter()
                assert visitor.get(path).status_code == 200
                slowest = max(slowest, time.perf_counter() - started)
            started = time.perf_counter()
            assert visitor.post("/predict", content=PNG).status_code == 200
            slowest = max(slowest, time.perf_counter() - started)
    responses = [each.result() for each in uploads]
    assert {response.status_code for response in responses} <= {200, 503}
    assert all("retry-after" in each.headers for each in responses if each.status_code == 503)
    assert any(response.status_code == 200 for response in responses)
    assert slowest < 2
    assert workers(narrow) == {worker}


def test_sigterm_ends_the_service_while_it_decodes(narrow: Server, visitor: httpx.Client) -> None:
    body = png(SIZE)

    def upload(_: int) -> int | None:
        try:
            return httpx.post(f"{narrow.url}/predict", content=body, timeout=60).status_code
        except httpx.ConnectError:  # refused, because the service has ended
            return None

    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        uploads = [clients.submit(upload, number) for number in range(24)]
        concurrent.futures.wait(uploads, return_when=concurrent.futures.FIRST_COMPLETED)
        narrow.process.send_signal(signal.SIGTERM)
        sent = time.monotonic()
        assert narrow.process.wait(30) == 0
        assert time.monotonic() - sent < 15
        outcomes = [each.result() for each in uploads]
    assert set(outcomes) <= {200, 503, None}
    assert outcomes.count(None) < len(outcomes)
