"""Classes named in requests: labels compare in any Unicode form."""

import time
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from limelight.artifact.store import ArtifactError, load_artifact
from limelight.classifier import load
from service.settings import Settings
from tests.service.oip.kit import INFER
from tests.service.test_app import PNG, Served
from tests.serving_kit import write_artifact

COMPOSED, DECOMPOSED = "K\u00e4se", "Ka\u0308se"
CLASSES = (DECOMPOSED, "Br\u00f6t", "ﬁsch")  # NFC keeps the ligature, unlike NFKC
OTHER_FORM = {DECOMPOSED: COMPOSED, "Br\u00f6t": "Bro\u0308t"}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    write_artifact(tmp_path, classes=CLASSES)
    async with Served(Settings(models=tmp_path, default_model="colours", device="cpu")) as served:
        yield served


@pytest.mark.parametrize("label", [*CLASSES, *OTHER_FORM.values()])
async def test_target_and_against_are_found_in_any_unicode_form(served: Served, label: str) -> None:
    own = {other: own for own, other in OTHER_FORM.items()}.get(label, label)
    for answer in (
        await served.http.post("/explain", params={"target": label}, content=PNG),
        await served.http.post("/explain", data={"target": label}, files={"image": ("a", PNG)}),
    ):
        assert answer.json()["cam"]["target"] == own
    rival = next(each for each in CLASSES if each != own)
    params = {"target": rival, "method": "contrast", "against": label}
    cam = (await served.http.post("/explain", params=params, content=PNG)).json()["cam"]
    assert (cam["target"], cam["against"]) == (rival, own)
    size = {"shape": [1, 1], "datatype": "BYTES", "name": "image_bytes"}
    overlay = {"name": "overlay_png", "parameters": {"target": label}}
    body = {"inputs": [size | {"data": [b64encode(PNG).decode()]}], "outputs": [overlay]}
    assert (await served.http.post(INFER, json=body)).status_code == 200


async def test_label_that_is_not_escaped_in_the_query_is_utf_8(served: Served) -> None:
    """curl sends what was typed."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": PNG}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/explain", "headers": []}
    query = f"target={COMPOSED}".encode()
    await served.application(scope | {"query_string": query}, receive, send)
    assert sent[0]["status"] == 200


async def test_long_target_takes_little_time(served: Served) -> None:
    """Normalising it would take minutes."""
    target = "a" + "\u0301\u0327" * 200_000
    started = time.process_time()
    form = {"data": {"target": target}, "files": {"image": ("a", PNG)}}
    answer = await served.http.post("/explain", **form)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_target")
    assert time.process_time() - started < 2


async def test_similar_label_is_another_class(served: Served) -> None:
    for label in ("Kase", "fisch"):
        answer = await served.http.post("/explain", params={"target": label}, content=PNG)
        assert (answer.status_code, answer.json()["code"]) == (422, "unknown_target")


def test_classifier_in_this_process_finds_the_same_class(tmp_path: Path) -> None:
    write_artifact(tmp_path, classes=CLASSES)
    classifier = load(tmp_path / "colours", device="cpu")
    assert classifier.explain(PNG, target=COMPOSED).cam.target == DECOMPOSED


def test_manifest_with_one_label_in_two_forms_is_rejected(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path, classes=(COMPOSED, DECOMPOSED, "x"))
    with pytest.raises(ArtifactError, match="not all different"):
        load_artifact(folder)
