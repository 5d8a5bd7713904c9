"""Client of the service, against a real service and against scripted failures."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from limelight.client import AsyncClient, Client, RefusedError, UnreachableError
from limelight.results import Explanation, Prediction
from tests.serving_kit import COLOURS, Server, colour_image, encode

PNG = encode(colour_image(np.random.default_rng(4)))
ANSWER = {
    "model": "m",
    "version": "1",
    "label": "a",
    "index": 0,
    "confidence": 0.75,
    "abstain": False,
    "ood_score": -3.5,
    "out_of_distribution": False,
    "scores": [{"label": "a", "index": 0, "probability": 0.75}],
}


def test_client_returns_the_answers_of_the_service(
    server: Server, client: httpx.Client, tmp_path: Path
) -> None:
    (tmp_path / "image.png").write_bytes(PNG)
    with Client(server.url) as typed:
        prediction = typed.predict(tmp_path / "image.png", top_k=2)
        explanation = typed.explain(PNG, target="all")
        overlay = typed.overlay(PNG, colormap="jet")
        models = typed.models()
    raw = client.post("/explain?target=all", content=PNG).json()
    assert prediction.label == raw["label"]
    assert [score.probability for score in prediction.scores] == [
        score["probability"] for score in raw["scores"][:2]
    ]
    assert [cam.target for cam in (explanation.cams or ())] == list(COLOURS)
    assert explanation.cam == (explanation.cams or ())[explanation.index]
    assert explanation.to_dict() == raw
    assert overlay.startswith(b"\x89PNG")
    assert {model["name"] for model in models} == {"colours", "digits"}


def test_asynchronous_client_returns_the_same_results(server: Server) -> None:
    async def ask() -> tuple[Prediction, Explanation, bytes, list[str], list[str]]:
        async with AsyncClient(server.url) as typed:
            many = [each async for each in typed.predict_many([PNG] * 20, concurrency=4)]
            return (
                await typed.predict(PNG),
                await typed.explain(PNG, method="contrast"),
                await typed.overlay(PNG),
                [each.label for each in many if isinstance(each, Prediction)],
                [model["name"] for model in await typed.models()],
            )

    prediction, explanation, overlay, labels, models = asyncio.run(ask())
    with Client(server.url) as typed:
        assert prediction == typed.predict(PNG)
        assert explanation == typed.explain(PNG, method="contrast")
        assert overlay == typed.overlay(PNG)
        assert labels == [prediction.label] * 20
        assert models == [model["name"] for model in typed.models()]


def test_rejection_has_the_status_the_code_and_the_detail_of_the_service(server: Server) -> None:
    with Client(server.url) as typed, pytest.raises(RefusedError, match="use one of") as rejected:
        typed.explain(PNG, target="pink")
    assert (rejected.value.status, rejected.value.code) == (422, "unknown_target")


def test_predict_many_keeps_the_order_and_yields_errors_in_place(server: Server) -> None:
    rng = np.random.default_rng(6)
    images = [encode(colour_image(rng)) for _ in range(40)]
    images[17] = b"no image"
    with Client(server.url) as typed:
        answers = list(typed.predict_many(images, concurrency=5))
        assert isinstance(answers[17], RefusedError)
        for image, answer in zip(images, answers, strict=True):
            if answer is not answers[17]:
                assert answer == typed.predict(image)


def scripted(
    *replies: int | Exception, retry_after: str | None = None
) -> tuple[Callable[[httpx.Request], httpx.Response], list[float]]:
    """Create a service that replies with these statuses in turn, and the times of its requests."""
    asked: list[float] = []

    def reply(request: httpx.Request) -> httpx.Response:
        asked.append(time.monotonic())
        now = replies[min(len(asked), len(replies)) - 1]
        if isinstance(now, Exception):
            raise now
        if now == 200:
            return httpx.Response(200, json=ANSWER)
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        problem = {"status": now, "code": "overloaded", "title": "t", "detail": "try again"}
        return httpx.Response(now, json=problem, headers=headers)

    return reply, asked


def test_overloaded_service_is_retried_after_retry_after() -> None:
    reply, asked = scripted(503, 200, retry_after="1")
    with Client("http://there", transport=httpx.MockTransport(reply)) as typed:
        assert typed.predict(PNG).label == "a"
    assert len(asked) == 2
    assert asked[1] - asked[0] >= 1.0


def test_failed_connection_is_retried() -> None:
    reply, asked = scripted(httpx.ConnectError("refused"), httpx.ReadError("reset"), 200)
    with Client("http://there", transport=httpx.MockTransport(reply)) as typed:
        assert typed.predict(PNG).label == "a"
    assert len(asked) == 3


def test_permanent_error_is_not_retried() -> None:
    reply, asked = scripted(422, 200)
    with (
        Client("http://there", transport=httpx.MockTransport(reply)) as typed,
        pytest.raises(RefusedError),
    ):
        typed.predict(PNG)
    assert len(asked) == 1


def test_retries_end_within_the_timeout_and_the_number_of_attempts() -> None:
    reply, asked = scripted(503, retry_after="60")
    with (
        Client("http://there", transport=httpx.MockTransport(reply), timeout_s=1) as typed,
        pytest.raises(RefusedError, match="overloaded"),
    ):
        typed.predict(PNG)
    assert len(asked) == 1
    dead, asked = scripted(httpx.ConnectError("refused"))
    with (
        Client("http://there", transport=httpx.MockTransport(dead), retries=2) as typed,
        pytest.raises(UnreachableError, match=r"http://there/predict in 3 attempts"),
    ):
        typed.predict(PNG)
    assert len(asked) == 3


def test_timeout_is_sent_to_the_service() -> None:
    seen: list[float] = []

    def reply(request: httpx.Request) -> httpx.Response:
        seen.append(float(request.headers["X-Timeout-Ms"]))
        return httpx.Response(200, json=ANSWER)

    with Client("http://there", transport=httpx.MockTransport(reply), timeout_s=2) as typed:
        typed.predict(PNG)
    assert 1500 < seen[0] <= 2000


def test_answer_of_another_server_is_rejected() -> None:
    with (
        Client(
            "http://there",
            transport=httpx.MockTransport(lambda request: httpx.Response(404, text="<html>")),
        ) as typed,
        pytest.raises(RefusedError, match="not an answer of this service"),
    ):
        typed.predict(PNG)


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, b"<html>a proxy's page</html>"),
        (200, b"{}"),
        (200, b"\x89PNG\r\n\xff"),
        (404, b'{"code": "not_found"}'),
    ],
)
def test_answer_that_is_not_one_of_the_service_is_an_error_of_the_client(
    status: int, content: bytes
) -> None:
    """Each method says so, and `predict_many` goes on."""
    transport = httpx.MockTransport(lambda request: httpx.Response(status, content=content))

    async def ask() -> list[object]:
        async with AsyncClient("http://there", transport=transport) as typed:
            return [each async for each in typed.predict_many([PNG, PNG])]

    with Client("http://there", transport=transport) as typed:
        for method in (typed.models, lambda: typed.predict(PNG), lambda: typed.explain(PNG)):
            with pytest.raises(RefusedError, match="not an answer of this service") as refused:
                method()
            assert (refused.value.status, refused.value.code) == (status, "unknown")
        many = [*typed.predict_many([PNG, PNG]), *asyncio.run(ask())]
    assert len(many) == 4
    assert all(isinstance(each, RefusedError) for each in many)


def test_answer_in_a_broken_encoding_is_no_answer() -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        stream = httpx.ByteStream(b"no gzip")
        return httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=stream)

    with (
        Client("http://there", transport=httpx.MockTransport(reply), retries=0) as typed,
        pytest.raises(UnreachableError, match="in 1 attempts"),
    ):
        typed.predict(PNG)


@contextmanager
def slow_server(content: bytes, pause_s: float) -> Iterator[str]:
    """Serve one answer, a byte at a time with pauses, and yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n"
                    connection.sendall(head.encode())
                    for byte in content:
                        connection.sendall(bytes([byte]))
                        time.sleep(pause_s)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def test_timeout_limits_the_whole_answer() -> None:
    """The time between two bytes is shorter than the timeout, and the answer takes four seconds."""
    content = json.dumps(ANSWER).encode()

    def took_s(ask: Callable[[str], object]) -> float:
        with slow_server(content, 4 / len(content)) as url:
            started = time.monotonic()
            with pytest.raises(UnreachableError):
                ask(url)
            return time.monotonic() - started

    def ask(url: str) -> None:
        with Client(url, timeout_s=0.5, retries=0) as typed:
            typed.predict(PNG)

    async def ask_asynchronously(url: str) -> None:
        async with AsyncClient(url, timeout_s=0.5, retries=0) as typed:
            await typed.predict(PNG)

    assert took_s(ask) < 2
    assert took_s(lambda url: asyncio.run(ask_asynchronously(url))) < 2


def test_stopping_early_waits_for_no_answer() -> None:
    sent: list[float] = []

    def reply(request: httpx.Request) -> httpx.Response:
        sent.append(time.monotonic())
        time.sleep(0.01 if len(sent) == 1 else 1.0)
        return httpx.Response(200, json=ANSWER)

    with Client("http://there", transport=httpx.MockTransport(reply)) as typed:
        started = time.monotonic()
        for _ in typed.predict_many([PNG] * 100, concurrency=2):
            break
        assert time.monotonic() - started < 0.9
        time.sleep(1.2)
    assert len(sent) <= 4


def test_file_that_cannot_be_read_is_an_error_in_place(tmp_path: Path) -> None:
    reply, _ = scripted(200)
    images: list[bytes | bytearray | Path] = [PNG, tmp_path / "absent.png", bytearray(PNG)]
    with Client("http://there", transport=httpx.MockTransport(reply)) as typed:
        found = list(typed.predict_many(images))
    assert [type(each) for each in found] == [Prediction, FileNotFoundError, Prediction]


def test_concurrency_must_be_positive() -> None:
    async def ask() -> list[object]:
        async with AsyncClient("http://there") as typed:
            return [each async for each in typed.predict_many([PNG], concurrency=0)]

    with pytest.raises(ValueError, match="concurrency"):
        asyncio.run(ask())
    with Client("http://there") as typed, pytest.raises(ValueError, match="must be"):
        list(typed.predict_many([PNG], concurrency=0))


def test_path_may_be_a_string(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(PNG)
    sent: list[bytes] = []

    def reply(request: httpx.Request) -> httpx.Response:
        sent.append(request.content)
        return httpx.Response(200, json=ANSWER)

    with Client("http://there", transport=httpx.MockTransport(reply)) as typed:
        typed.predict(str(tmp_path / "image.png"))
        typed.predict(memoryview(PNG))
    assert sent == [PNG, PNG]


def test_format_is_no_parameter() -> None:
    with Client("http://there") as typed:
        with pytest.raises(TypeError, match="overlay returns a PNG"):
            typed.explain(PNG, format="png")
        with pytest.raises(TypeError, match="overlay returns a PNG"):
            typed.overlay(PNG, format="json")


def test_line_break_around_a_key_is_removed_and_an_impossible_key_is_not_shown() -> None:
    sent: list[str] = []

    def reply(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["authorization"])
        return httpx.Response(200, json=ANSWER)

    with Client("http://a", api_key="of-a-file\n", transport=httpx.MockTransport(reply)) as typed:
        typed.predict(PNG)
    assert sent == ["Bearer of-a-file"]
    for key in ("secret\nsecret", "secret secret", "sécret"):
        for kind in (Client, AsyncClient):
            with pytest.raises(ValueError, match="check api_key or LIMELIGHT_API_KEY") as refused:
                kind("http://a", api_key=key)
            assert key not in str(refused.value)


def test_both_clients_send_the_key_that_they_are_given_or_the_variable_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("authorization"))
        return httpx.Response(200, json=ANSWER)

    transport = httpx.MockTransport(answer)

    async def ask(key: str | None) -> None:
        async with AsyncClient("http://service", transport=transport, api_key=key) as client:
            await client.predict(PNG)

    def ask_both(key: str | None = None) -> None:
        with Client("http://service", transport=transport, api_key=key) as client:
            client.predict(PNG)
        asyncio.run(ask(key))

    ask_both()
    monkeypatch.setenv("LIMELIGHT_API_KEY", "of-the-variable")
    ask_both()
    ask_both("of-the-program")
    ask_both("")
    expected = [None, "Bearer of-the-variable", "Bearer of-the-program", None]
    assert sent == [each for each in expected for _ in range(2)]
