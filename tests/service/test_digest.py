"""The digest of the artefact that answered, in headers, metadata and `/models`."""

import hashlib
from pathlib import Path

import httpx
import numpy as np
import pytest

import limelight
from limelight.errors import Overloaded
from service.settings import Settings
from tests.service.test_app import PNG, Served


def digest_of(zoo: Path, name: str) -> str:
    (manifest,) = (zoo / name).glob("*/manifest.json")
    return hashlib.sha256(manifest.read_bytes()).hexdigest()


def inference(rows: int) -> dict[str, object]:
    pixels = np.zeros((rows, 8, 8, 3), int).tolist()
    tensor = {"name": "images", "datatype": "UINT8", "shape": [rows, 8, 8, 3], "data": pixels}
    return {"inputs": [tensor]}


async def test_every_answer_of_a_model_names_its_digest(zoo: Path) -> None:
    colours, digits = digest_of(zoo, "colours"), digest_of(zoo, "digits")
    assert colours != digits
    async with Served(Settings(models=zoo, default_model="colours", device="cpu")) as served:

        async def post(path: str, **content: object) -> httpx.Response:
            return await served.http.post(path, **(content or {"content": PNG}))  # type: ignore[arg-type]

        for path in ("/predict", "/explain", "/explain?format=png", "/explain?target=x"):
            assert (await post(path)).headers["x-model-digest"] == colours, path
        assert (await post("/predict?model=digits")).headers["x-model-digest"] == digits
        infer = "/v2/models/colours/infer"
        for rows, status in ((1, 200), (0, 400)):
            answer = await post(infer, json=inference(rows))
            assert (answer.status_code, answer.headers["x-model-digest"]) == (status, colours)
        assert "x-model-digest" not in (await post("/predict?model=nobody")).headers
        listed = (await served.http.get("/models")).json()["models"]
        assert {each["name"]: each["digest"] for each in listed} == {
            "colours": colours,
            "digits": digits,
        }


def test_classifier_in_this_process_has_the_same_digest(zoo: Path) -> None:
    assert limelight.load(zoo / "colours").digest == digest_of(zoo, "colours")


async def test_request_that_is_rejected_by_its_head_names_the_digest(
    zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Served(Settings(models=zoo, default_model="colours", device="cpu")) as served:
        classifier = served.registry.get("colours")
        monkeypatch.setattr(
            type(classifier),
            "rejection",
            lambda *_, **__: Overloaded("full", retry_after_s=1),
        )
        scope: dict[str, object] = {"type": "http", "method": "POST", "path": "/predict"}
        scope |= {"query_string": b"", "headers": []}

        async def receive() -> dict[str, str]:
            raise AssertionError

        early = served.application._reject_early(scope, receive, False)
        assert early is not None
        assert dict(early[1])[b"x-model-digest"].decode() == classifier.digest
