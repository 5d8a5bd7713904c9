"""The client, against a real service and against ones that fail on cue."""

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


def test_answers_are_those_of_the_service(
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


def test_the_asynchronous_client_gives_the_same(server: Server) -> None:
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


def test_a_refusal_says_what_to_do(server: Server) -> None:
    with Client(server.url) as typed, pytest.raises(RefusedError, match="use one of") as refused:
        typed.explain(PNG, target="pink")
    assert (refused.value.status, refused.value.code) == (422, "unknown_target")


def test_many_images_keep_their_order_and_a_bad_one_its_place(server: Server) -> None:
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
    """A service that gives these statuses in turn, and when it was asked."""
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


def test_a_busy_service_is_asked_again_when_it_says() -> None:
    reply, asked = scripted(503, 200, retry_after="1")
    with Client("http://there", transport=httpx.MockTransport(reply)) as typed:
        assert typed.predict(PNG).label == "a"
    assert len(asked) == 2
    assert asked[1] - asked[0] >= 1.0


def test_a_connection_that_fails_is_tried_again() -> None:
    reply, asked = scripted(httpx.ConnectError("refused"), httpx.ReadError("reset"), 200)
    with Client("http://there", transport=httpx.MockTransport(reply)) as typed:
        assert typed.predict(PNG).label == "a"
    assert len(asked) == 3


def test_what_will_not_pass_is_not_tried_again() -> None:
    reply, asked = scripted(422, 200)
    with (
        Client("http://there", transport=httpx.MockTransport(reply)) as typed,
        pytest.raises(RefusedError),
    ):
        typed.predict(PNG)
    assert len(asked) == 1


def test_it_gives_up_in_time() -> None:
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


def test_the_service_learns_how_long_there_is() -> None:
    seen: list[float] = []

    def reply(request: httpx.Request) -> httpx.Response:
        seen.append(float(request.headers["X-Timeout-Ms"]))
        return httpx.Response(200, json=ANSWER)

    with Client("http://there", transport=httpx.MockTransport(reply), timeout_s=2) as typed:
        typed.predict(PNG)
    assert 1500 < seen[0] <= 2000


def test_an_answer_of_somebody_else_is_no_crash() -> None:
    with (
        Client(
            "http://there",
            transport=httpx.MockTransport(lambda request: httpx.Response(404, text="<html>")),
        ) as typed,
        pytest.raises(RefusedError, match="not an answer of this service"),
    ):
        typed.predict(PNG)
