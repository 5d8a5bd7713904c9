"""Canary, shadow, rollback and promotion in a real service with two workers."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton

from service.inference.rollout_routing import takes_part
from tests.pipeline.cli.running import limelight
from tests.service.oip.kit import free_port
from tests.serving_kit import (
    COLOUR_NETWORK,
    Server,
    bentoml_serve,
    colour_image,
    encode,
    write_artifact,
)

PIXELS = np.asarray(colour_image(np.random.default_rng(0)))
PNG = encode(colour_image(np.random.default_rng(0)))
# It answers "green" to the image, and the first network "red".
OTHER = replace(
    COLOUR_NETWORK,
    weight=np.roll(COLOUR_NETWORK.weight, 1, axis=0),
    bias=np.array([0, 3, 0], np.float32),
)
# It loads, and fails on every image that is not black: the sums are infinite.
BROKEN = replace(COLOUR_NETWORK, weight=np.full((3, 3), 3e38, np.float32))
CLIENTS = [f"client-{number}" for number in range(24)]


@dataclass(frozen=True)
class Running:
    server: Server
    client: httpx.Client
    admin: str
    grpc: str
    folder: Path

    def limelight(self, *arguments: str) -> str:
        done = limelight("models", *arguments, f"--url={self.admin}", cwd=self.folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(self, client: str = "", query: str = "") -> str:
        """Ask on a new connection, so that any worker answers."""
        headers = {"Connection": "close"} | ({"X-Client-Id": client} if client else {})
        answer = self.client.post(f"/predict{query}", content=PNG, headers=headers)
        return str(answer.json().get("version", answer.status_code))

    def ask_all(self) -> dict[str, str]:
        with ThreadPoolExecutor(4) as pool:
            return dict(zip(CLIENTS, pool.map(self.ask, CLIENTS), strict=True))

    def rollout(self) -> dict[str, Any]:
        answer = self.client.get("/models/colours", headers={"Connection": "close"})
        found: dict[str, Any] = answer.json()["rollout"]
        return found

    def reason(self) -> str:
        """Return why the rollout has ended; each worker notices it within a moment."""
        until(lambda: bool(self.rollout()["ended"]))
        time.sleep(0.5)
        return str(self.rollout()["ended"])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("rollouts")
    for version, network in (("1", COLOUR_NETWORK), ("2", OTHER), ("3", BROKEN)):
        write_artifact(folder / "zoo", version=version, network=network, layercam=False)
    admin, grpc_port = free_port(), free_port()
    with (
        bentoml_serve(
            folder / "zoo",
            folder / "serve",
            LIMELIGHT_WORKERS="2",
            LIMELIGHT_VERSIONS="specific:1",
            LIMELIGHT_ADMIN_PORT=str(admin),
            LIMELIGHT_GRPC_PORT=str(grpc_port),
            LIMELIGHT_TIMEOUT_S="2",
        ) as server,
        httpx.Client(base_url=server.url, timeout=10) as client,
    ):
        yield Running(server, client, f"http://127.0.0.1:{admin}", f"127.0.0.1:{grpc_port}", folder)


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_all_workers_and_protocols_send_a_client_to_the_same_version(running: Running) -> None:
    shown = running.limelight("canary", "colours", "2", "--share", "40%")
    assert "canary 0.4" in shown
    time.sleep(0.5)  # until both workers have noticed, where the version was loaded already
    expected = {name: "2" if takes_part(name.encode(), "colours", 0.4) else "1" for name in CLIENTS}
    assert set(expected.values()) == {"1", "2"}
    for _ in range(3):
        assert running.ask_all() == expected
    with triton.InferenceServerClient(running.grpc) as remote:
        tensor = triton.InferInput("images", [1, 8, 8, 3], "UINT8").set_data_from_numpy(
            PIXELS[None]
        )
        for name in CLIENTS[:8]:
            headers = {"x-client-id": name}
            answer = remote.infer("colours", [tensor], headers=headers).get_response()
            assert answer.model_version == expected[name]
    inside = list(expected.values()).count("2")
    counted = [running.rollout()[key] for key in ("requests", "champion_requests")]
    grpc_inside = sum(expected[name] == "2" for name in CLIENTS[:8])
    total = [3 * inside + grpc_inside, 3 * (24 - inside) + 8 - grpc_inside]
    until(lambda: [running.rollout()[k] for k in ("requests", "champion_requests")] == total)
    assert counted <= total
    for version in ("1", "2"):
        assert {running.ask(name, f"?version={version}") for name in CLIENTS[:4]} == {version}
    assert running.rollout()["requests"] == total[0]
    running.limelight("finish", "colours")
    assert set(running.ask_all().values()) == {"1"}
    assert running.reason() == "finished by an operator"


def test_failing_canary_is_rolled_back_by_itself(running: Running) -> None:
    limits = ("--max-errors", "10%", "--min-requests", "10")
    running.limelight("canary", "colours", "3", "--share", "50%", *limits)
    answers: list[str] = []

    def ended() -> bool:
        answers.extend(running.ask_all().values())
        return bool(running.rollout()["ended"])

    until(ended)
    assert set(answers) == {"1", "500"}
    assert running.reason().startswith("rolled back: 100.00% of")
    until(lambda: set(running.ask_all().values()) == {"1"})
    shown = running.limelight("list")
    assert "canary of 3" in shown
    assert "ended: rolled back: 100.00% of" in shown
    assert "has ended: rolled back" in running.server.log()


def test_shadow_that_disagrees_is_ended_and_answers_nobody(running: Running) -> None:
    limits = ("--max-disagreement", "5%", "--min-requests", "10")
    shown = running.limelight("shadow", "colours", "2", *limits)
    assert "shadow 1" in shown
    answers: list[str] = []

    def ended() -> bool:
        answers.extend(running.ask() for _ in range(4))
        return bool(running.rollout()["ended"])

    until(ended)
    assert set(answers) == {"1"}
    assert running.reason().startswith("rolled back: 100.00% of")
    found = running.rollout()
    assert found["agreement"] == 0
    ours, theirs = (each.probabilities(PIXELS[None]) for each in (COLOUR_NETWORK, OTHER))
    assert found["probability_difference"] == pytest.approx(np.abs(ours - theirs).mean(), rel=1e-4)
    assert -1 <= found["map_correlation"] <= 1


def test_canary_is_promoted_and_rolled_back_by_hand(running: Running) -> None:
    limits = ("--promote", "--max-errors", "1%", "--min-requests", "10")
    running.limelight("canary", "colours", "2", "--share", "0.5", *limits)
    until(lambda: set(running.ask_all().values()) == {"2"})
    assert running.reason().startswith("promoted after")
    running.limelight("rollback", "colours")
    assert set(running.ask_all().values()) == {"1"}


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("kind=canary&version=1", 409, "is active already"),
        ("kind=canary&version=9", 404, "has no version 9 on disk"),
        ("kind=canary&version=2&share=2", 400, "share is '2'"),
        ("kind=canary&version=2&max_error=0.1", 400, "there is no parameter 'max_error'"),
    ],
)
def test_impossible_rollout_is_refused(
    running: Running, query: str, status: int, message: str
) -> None:
    answer = httpx.put(f"{running.admin}/models/colours/rollout?{query}", timeout=30)
    assert answer.status_code == status
    assert message in answer.json()["error"]
