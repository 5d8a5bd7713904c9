"""Client of the service, against a real service and against scripted failures."""

import asyncio
import time
from collections.abc import Callable
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
