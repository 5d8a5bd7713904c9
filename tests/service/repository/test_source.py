"""BentoML's model store as the source of models: put there, listed, served and followed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from limelight.artifact.store import ArtifactError
from service.repository import source
from service.settings import Settings
from tests.serving_kit import bentoml_serve, colour_image, encode, write_artifact

PNG = encode(colour_image(np.random.default_rng(0)))
PUT = """
import sys
from pathlib import Path
from pipeline.errors import PipelineError
from pipeline.exporting.bento_store import put_in_store
try:
    print(put_in_store(Path(sys.argv[1])))
except PipelineError as error:
    sys.exit(str(error))
"""


def put(folder: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Put an artefact into the store of `home`; BentoML reads the variable when it is imported."""
    return run(home, "-c", PUT, str(folder))


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(source, "_store", lambda: tmp_path)
    return tmp_path


def test_artefact_in_the_store_is_listed_served_and_followed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = put(write_artifact(tmp_path / "artifacts", version="1"), home)
    assert done.stdout.strip() == "colours:1", done.stderr
    assert "colours:1" in run(home, "-m", "bentoml", "models", "list").stdout
    again = put(tmp_path / "artifacts" / "colours" / "1", home)
    assert again.returncode == 1
    assert "run `bentoml models delete colours:1`" in again.stderr
    with bentoml_serve(
        Path("bento:colours:latest"),
        tmp_path / "serve",
        also={"BENTOML_HOME": str(home)},
        LIMELIGHT_WORKERS="1",
        LIMELIGHT_MODELS_POLL_S="0.3",
    ) as server:

        def version() -> str:
            answer = httpx.post(f"{server.url}/predict", content=PNG, timeout=10)
            return str(answer.json()["version"])

        assert version() == "1"
        put(write_artifact(tmp_path / "artifacts", version="2"), home)
        end = time.monotonic() + 30
        while version() != "2":
            assert time.monotonic() < end
            time.sleep(0.2)


def test_one_version_or_all_of_one_model_are_found(store: Path) -> None:
    for name in ("colours", "other"):
        for version in ("9", "10"):
            write_artifact(store, name=name, version=version)
    assert list(source.find_models(Path("bento:colours:latest"))["colours"]) == ["10", "9"]
    assert source.find_models(Path("bento:colours")).keys() == {"colours"}
    assert source.find_models(Path("bento:other:9")) == {"other": {"9": store / "other" / "9"}}
    assert source.find_models(store).keys() == {"colours", "other"}  # a folder, as before


def test_what_is_not_in_the_store_is_said_with_a_remedy(store: Path) -> None:
    with pytest.raises(ArtifactError, match="has no colours:latest: put it there with"):
        source.find_models(Path("bento:colours:latest"))
    write_artifact(store, version="1")
    (store / "colours" / "2").mkdir()
    with pytest.raises(ArtifactError, match=r"colours:2 .* has no manifest\.json"):
        source.find_models(Path("bento:colours:2"))
    with pytest.raises(ArtifactError, match="`bentoml models list` shows what there is"):
        source.find_models(Path("bento:colours:3"))


@pytest.mark.parametrize("value", ["bento:", "bento:a:b", "bento:../x:1", "bento:A:1"])
def test_value_that_is_no_tag_is_refused_at_the_start(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMELIGHT_MODELS", value)
    with pytest.raises(ValueError, match="write bento:NAME:VERSION"):
        Settings()
