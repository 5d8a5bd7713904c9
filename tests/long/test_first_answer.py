"""From 180 photos of three classes to the first answer of the service, by the commands.

`make test-first-answer` runs this, on an idle machine. It says how long each command takes; all of
them together may take three minutes on two cores.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np

from limelight.artifact.store import load_artifact
from tests.pipeline.messy_folder import CLASSES, photo
from tests.serving_kit import bentoml_serve

PHOTOS, SIZE = 60, (1024, 768)
MOST_SECONDS = 180


def test_first_answer_comes_within_three_minutes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(PHOTOS):
            photo(rng, name, SIZE).save(tmp_path / "photos" / name / f"{number}.jpg")
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    seconds: dict[str, float] = {}

    def run(*arguments: str) -> None:
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "pipeline", *arguments],
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
            check=True,
        )
        seconds[arguments[0]] = time.perf_counter() - started

    run("train", "photos", "--out", "run")
    run("export", "run")
    started = time.perf_counter()
    sample = (tmp_path / "photos" / "Grün" / "7.jpg").read_bytes()
    models = tmp_path / "artifacts"
    with bentoml_serve(models, tmp_path / "server", LIMELIGHT_DEFAULT_MODEL="photos") as server:
        answer = httpx.post(f"{server.url}/predict", content=sample, timeout=60).json()
    seconds["serve"] = time.perf_counter() - started
    assert answer["label"] == "Grün"
    assert load_artifact(models / "photos" / "1").manifest.metrics.accuracy > 0.9
    said = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    print(f"\n{said}; together {sum(seconds.values()):.0f} s")
    assert sum(seconds.values()) < MOST_SECONDS
