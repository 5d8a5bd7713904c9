"""`bentoml build` and the resulting Bento."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx

from tests.service.http.test_routes import PNG
from tests.serving_kit import REPOSITORY, bentoml_serve


def test_bento_contains_only_the_service_and_runs_in_any_folder(zoo: Path, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "serve", tmp_path / "elsewhere"
    elsewhere.mkdir()
    variables = os.environ | {"BENTOML_HOME": str(folder / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    build = [sys.executable, "-m", "bentoml", "build", "--output", "tag"]
    subprocess.run(build, cwd=REPOSITORY, env=variables, check=True, capture_output=True)
    (source,) = (folder / "home").glob("bentos/limelight/*/src")
    files = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    assert Path("service/bento.py") in files
    assert {path.parts[0] for path in files} <= {
        *("limelight", "service", "examples", "zoo", "pyproject.toml", "README.md", "LICENSE"),
        "bentofile.yaml",  # BentoML's own
    }
    with bentoml_serve(
        zoo, folder, bento="limelight:latest", cwd=elsewhere, LIMELIGHT_WORKERS="1"
    ) as server:
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        answer = httpx.post(f"{server.url}/explain", content=PNG).json()
        assert answer["model"] == "colours"


def test_requirements_of_the_bento_match_the_project() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    packages = project["tool"]["bentoml"]["build"]["python"]["packages"]
    extras = project["project"]["optional-dependencies"]
    own = [it for it in extras["serve"] if not it.startswith("limelight[")]
    assert packages == project["project"]["dependencies"] + extras["cli"] + extras["runtime"] + own
