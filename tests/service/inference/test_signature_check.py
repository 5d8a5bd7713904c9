"""Signatures before a model is loaded: `require` refuses, `warn` logs, `off` does nothing."""

import hashlib
import shutil
import sys
from pathlib import Path

import pytest

from service.settings import Settings
from tests.service.test_app import PNG, Served
from tests.serving_kit import write_artifact
from tests.signing_kit import KeyPair, make_keys, sign_folder


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, keys: KeyPair) -> Path:
    """A signed model, and an unsigned one."""
    root = tmp_path_factory.mktemp("mixed")
    sign_folder(write_artifact(root), keys.private)
    write_artifact(root, name="other")
    return root


def served_with(models: Path, keys: KeyPair, signatures: str) -> Served:
    return Served(
        Settings(
            models=models,
            default_model="colours",
            device="cpu",
            signatures=signatures,
            trusted_keys=keys.public,
        )
    )


async def test_require_serves_what_is_signed_and_says_why_the_rest_is_not(
    mixed: Path, keys: KeyPair, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "limelight")
    async with served_with(mixed, keys, "require") as served:
        assert (await served.http.post("/predict", content=PNG)).status_code == 200
        refused = await served.http.post("/predict?model=other", content=PNG)
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
        listed = (await served.http.get("/models")).json()
        (model,) = listed["models"]
        digest = hashlib.sha256(keys.public.read_bytes()).hexdigest()
        assert model["signature"] == {"verified": True, "method": "key", "key": digest}
        (other,) = listed["refused"]
        assert "is not signed (model.sig is missing)" in other["reason"]
        ready = await served.http.get("/readyz")
        assert (ready.status_code, "is not signed" in ready.text) == (503, True)
    assert f"is signed by the trusted key {digest}" in caplog.text


async def test_warn_serves_and_logs(
    mixed: Path, keys: KeyPair, caplog: pytest.LogCaptureFixture
) -> None:
    async with served_with(mixed, keys, "warn") as served:
        assert (await served.http.post("/predict?model=other", content=PNG)).status_code == 200
        models = (await served.http.get("/models")).json()["models"]
        found = {model["name"]: model["signature"] for model in models}
        assert (found["colours"]["verified"], found["other"]["verified"]) == (True, False)
        assert "is not signed" in found["other"]["problem"]
        assert (await served.http.get("/readyz")).status_code == 200
    assert "model other 1 is served, and its signature is not verified" in caplog.text


async def test_off_says_that_nothing_was_verified(mixed: Path, keys: KeyPair) -> None:
    async with served_with(mixed, keys, "off") as served:
        models = (await served.http.get("/models")).json()["models"]
        assert [model["signature"] for model in models] == [None, None]


async def test_require_without_the_library_is_unready_and_names_the_extra(
    mixed: Path, keys: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(mixed / "colours", tmp_path / "colours")
    monkeypatch.setitem(sys.modules, "model_signing.verifying", None)
    async with served_with(tmp_path, keys, "require") as served:
        ready = await served.http.get("/readyz")
        assert ready.status_code == 503
        assert "pip install 'limelight[sign]'" in ready.json()["detail"]


def test_settings_name_the_trusted_keys_that_are_missing() -> None:
    with pytest.raises(ValueError, match="name the public keys that may sign models"):
        Settings(signatures="require")
    assert Settings().trusted_keys is None
