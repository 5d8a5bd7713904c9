"""A real service with two workers that takes signed versions only."""

import hashlib
from pathlib import Path

import httpx

import limelight
from tests.service.repository.test_hot_swap import PNG, listed, refusals, versions, wait_until
from tests.serving_kit import bentoml_serve, write_artifact
from tests.signing_kit import make_keys, sign_folder


def test_signed_version_is_swapped_in_and_an_unsigned_one_refused(tmp_path: Path) -> None:
    keys, models, staging = make_keys(tmp_path), tmp_path / "zoo", tmp_path / "staging"
    sign_folder(write_artifact(models, version="1"), keys.private)

    def publish(version: str, *, private: Path | None) -> None:
        folder = write_artifact(staging, version=version)
        if private is not None:
            sign_folder(folder, private)
        folder.rename(models / "colours" / version)

    with bentoml_serve(
        models,
        tmp_path / "serve",
        LIMELIGHT_WORKERS="2",
        LIMELIGHT_MODELS_POLL_S="0.3",
        LIMELIGHT_SIGNATURES="require",
        LIMELIGHT_TRUSTED_KEYS=str(keys.public),
    ) as server:
        assert set(versions(server, 10)) == {"1"}
        publish("2", private=keys.private)
        wait_until(lambda: set(versions(server, 4)) == {"2"})
        publish("3", private=None)
        publish("4", private=make_keys(tmp_path, "other").private)
        reasons = refusals(server, {"3", "4"})
        assert set(versions(server, 10)) == {"2"}
        assert "is not signed (model.sig is missing)" in reasons["3"]
        assert "which is not trusted" in reasons["4"]
        (model,) = listed(server)["models"]
        digest = hashlib.sha256(keys.public.read_bytes()).hexdigest()
        assert model["signature"] == {"verified": True, "method": "key", "key": digest}
        answer = httpx.post(f"{server.url}/predict", content=PNG, timeout=10)
        assert answer.headers["x-model-digest"] == model["digest"]
        assert limelight.load(models / "colours" / "2").digest == model["digest"]
        index = httpx.post(f"{server.url}/v2/repository/index", content=b"{}").json()
        assert {each["version"]: each["state"] for each in index} == {
            "2": "READY",
            "3": "UNAVAILABLE",
            "4": "UNAVAILABLE",
        }
        metrics = httpx.get(f"{server.url}/metrics").text
        assert 'limelight_model_refused{model="colours",version="3"} 1.0' in metrics
        assert "colours/3 is refused" in server.log()
        # Signed later, in its place, it is tried again.
        sign_folder(models / "colours" / "3", keys.private)
        wait_until(lambda: set(versions(server, 4)) == {"3"})
