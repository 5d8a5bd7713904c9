"""Models that come and go while a real service with several workers answers."""

import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from tests.serving_kit import (
    COLOUR_NETWORK,
    Server,
    bentoml_serve,
    colour_image,
    encode,
    rewrite,
    write_artifact,
)

WORKERS = 4
PNG = encode(colour_image(np.random.default_rng(0)))
# A version that another network than that of the golden samples made.
WRONG = replace(COLOUR_NETWORK, weight=COLOUR_NETWORK.weight * np.float32(0.5))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "zoo", version="1", golden=True)
    return tmp_path / "zoo"


@pytest.fixture
def server(models: Path, tmp_path: Path) -> Iterator[Server]:
    with bentoml_serve(
        models,
        tmp_path / "serve",
        LIMELIGHT_WORKERS=str(WORKERS),
        LIMELIGHT_MODELS_POLL_S="0.3",
        LIMELIGHT_VERSIONS="colours=latest:2",
        LIMELIGHT_TIMEOUT_S="3",
    ) as running:
        yield running


def publish(models: Path, version: str, **options: object) -> None:
    """Write a version elsewhere, and rename it into place."""
    staging = models.parent / "staging"
    write_artifact(staging, version=version, golden=True, **options)  # type: ignore[arg-type]
    (staging / "colours" / version).rename(models / "colours" / version)


def versions(server: Server, requests: int = 40) -> Counter[str]:
    """Ask on new connections, so that every worker answers."""
    found: Counter[str] = Counter()
    for _ in range(requests):
        answer = httpx.post(f"{server.url}/predict", content=PNG, timeout=10)
        assert answer.status_code == 200, answer.text
        found[answer.json()["version"]] += 1
    return found


def wait_until(holds: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.2)


def listed(server: Server) -> dict[str, list[dict[str, Any]]]:
    answer: dict[str, list[dict[str, Any]]] = httpx.get(f"{server.url}/models", timeout=10).json()
    return answer


def refusals(server: Server, expected: set[str]) -> dict[str, str]:
    """Wait until all workers refuse the `expected` versions, and return the reasons."""
    reasons: dict[str, str] = {}

    def all_refuse() -> bool:  # one worker may know of it a moment before another
        for _ in range(8):
            reasons.clear()
            reasons.update({each["version"]: each["reason"] for each in listed(server)["refused"]})
            if reasons.keys() != expected:
                return False
        return True

    wait_until(all_refuse)
    return reasons


def test_every_worker_switches_without_a_failed_request_though_one_is_killed(
    server: Server, models: Path
) -> None:
    """One worker is killed in the middle of the change: its successor serves what all serve."""
    assert set(versions(server)) == {"1"}
    outcomes: list[tuple[int, str, float]] = []
    ended = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=10) as client:
            while not ended.is_set():
                answer = client.post(f"{server.url}/predict", content=PNG)
                outcomes.append((answer.status_code, answer.json()["version"], time.monotonic()))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    publish(models, "2")
    wait_until(lambda: "2" in {version for _, version, _ in outcomes[-20:]})
    time.sleep(2)
    ended.set()
    for thread in threads:
        thread.join()
    assert {status for status, *_ in outcomes} == {200}
    # All workers change at the same moment; a request that began before may still end.
    first = min(at for _, version, at in outcomes if version == "2")
    last = max(at for _, version, at in outcomes if version == "1")
    assert last - first < 1

    publish(models, "3")
    worker = psutil.Process(server.process.pid).children()[0]
    os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: {each["version"] for each in listed(server)["models"]} == {"3", "2"})
    wait_until(lambda: len(psutil.Process(server.process.pid).children()) >= WORKERS)
    time.sleep(3)  # its successor loads
    assert set(versions(server)) == {"3"}


def test_version_is_pinned_and_a_removed_one_ends(server: Server, models: Path) -> None:
    publish(models, "5")
    wait_until(lambda: len(listed(server)["models"]) == 2)
    with httpx.Client(base_url=server.url, timeout=10) as client:
        for version in ("1", "5"):
            pinned = client.post(f"/predict?model=colours&version={version}", content=PNG)
            assert pinned.json()["version"] == version
            ready = client.get(f"/v2/models/colours/versions/{version}/ready")
            assert ready.status_code == 200
        counts = {}
        time.sleep(1.5)  # the workers count every second
        for version in ("1", "5"):
            stats = client.get(f"/v2/models/colours/versions/{version}/stats").json()
            counts[version] = stats["model_stats"][0]["inference_count"]
        assert counts == {"1": 1, "5": 1}  # each version has its own
        active = {each["version"]: each["active"] for each in listed(server)["models"]}
        assert active == {"5": True, "1": False}
        assert client.get("/v2/models/colours").json()["versions"] == ["5", "1"]
        missing = client.post("/predict?version=4", content=PNG)
        assert missing.status_code == 404
        assert "use one of 5, 1" in missing.json()["detail"]
        shutil.rmtree(models / "colours" / "1")
        wait_until(lambda: len(listed(server)["models"]) == 1)
        gone = client.post("/predict?version=1", content=PNG)
        assert gone.status_code == 404


def test_damaged_and_wrong_versions_are_refused_with_the_reason(
    server: Server, models: Path
) -> None:
    publish(models, "6")
    wait_until(lambda: len(listed(server)["models"]) == 2)
    staging = models.parent / "staging"
    wrong = write_artifact(staging, version="7", golden=True, layercam=False)
    rewrite(wrong, "model.onnx", WRONG.onnx())
    damaged = write_artifact(staging, version="8", golden=True)
    (damaged / "model.onnx").write_bytes(b"half of it")
    for version in ("7", "8"):
        (staging / "colours" / version).rename(models / "colours" / version)
    reasons = refusals(server, {"7", "8"})
    assert "gives wrong answers on this processor" in reasons["7"]
    assert "its manifest says" in reasons["8"]
    assert set(versions(server, 8)) == {"6"}
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    index = httpx.post(f"{server.url}/v2/repository/index", content=b"{}").json()
    states = {each["version"]: each["state"] for each in index}
    assert states == {"6": "READY", "1": "READY", "7": "UNAVAILABLE", "8": "UNAVAILABLE"}
    metrics = httpx.get(f"{server.url}/metrics").text
    assert 'limelight_model_refused{model="colours",version="8"} 1.0' in metrics
    # The repaired version is tried again.
    manifest = json.loads((models / "colours" / "8" / "manifest.json").read_text())
    assert manifest["version"] == "8"
    (models / "colours" / "8" / "model.onnx").write_bytes(COLOUR_NETWORK.onnx())
    wait_until(lambda: set(versions(server, 4)) == {"8"})
