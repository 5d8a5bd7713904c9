"""Canary and shadow in one worker, with the application in the test's process."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from service.inference import shadow
from service.inference.batch_runner import Outputs
from service.inference.classifier import Classifier
from service.inference.rollout_routing import takes_part
from service.inference.shadow import Pair, Shadow
from service.repository.plan import Plan, State
from service.repository.rollout import Kind, Rollout, RolloutProgress, Sums, Tally
from service.request_context import RequestContext
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.service.access.kit import bearer, keys_text
from tests.service.test_app import Served
from tests.serving_kit import COLOUR_NETWORK, colour_image, encode, write_artifact

CHALLENGER = replace(
    COLOUR_NETWORK,
    weight=np.array([[3, -2, 1], [-1, 4, -2], [-2, -3, 4]], np.float32),
)
IMAGES = [np.asarray(colour_image(np.random.default_rng(seed))) for seed in range(12)]
PNGS = [encode(colour_image(np.random.default_rng(seed))) for seed in range(12)]
WAIT_S = 10.0


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    monkeypatch.setattr(shadow, "REST", 0.0)
    write_artifact(tmp_path, version="1")
    write_artifact(tmp_path, version="2", network=CHALLENGER)
    settings = Settings(
        models=tmp_path, default_model="colours", device="cpu", versions="specific:1,2"
    )
    async with Served(settings) as served:
        yield served


def begin(served: Served, kind: Kind, share: float = 1.0, **changes: Any) -> None:
    """Begin a rollout of version 1 beside version 2, which is active."""
    rollout = Rollout(kind=kind, version="1", share=share, champion="2", started=time.time())
    progress = RolloutProgress(replace(rollout, **changes))
    served.registry.note(State(Plan(1), Plan(1), rollouts={"colours": progress}))


def sums(served: Served) -> Sums:
    return served.registry.rollouts.tallies()["colours"].sums


def of(served: Served, version: str) -> Classifier:
    return served.registry.get("colours", version)


async def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def ask(
    served: Served,
    headers: Mapping[str, str] | None = None,
    *,
    image: int = 0,
    path: str = "/predict",
) -> str:
    answer = await served.http.post(path, content=PNGS[image], headers=headers)
    assert answer.status_code == 200, answer.text
    version = str(answer.json()["version"])
    assert answer.headers["x-model-version"] == f"colours/{version}"
    return version


def test_share_of_the_clients_takes_part_and_stays_as_the_share_grows() -> None:
    clients = [f"client-{number}".encode() for number in range(20_000)]
    before: set[bytes] = set()
    for share in (0.01, 0.1, 0.5, 1.0):
        chosen = {client for client in clients if takes_part(client, "colours", share)}
        # Six standard deviations of a binomial distribution.
        most = 6 * (len(clients) * share * (1 - share)) ** 0.5
        assert abs(len(chosen) - share * len(clients)) <= most
        assert before <= chosen
        before = chosen
    # Another model has other clients in its canary.
    both = sum(takes_part(each, "colours", 0.5) and takes_part(each, "x", 0.5) for each in clients)
    assert both == pytest.approx(len(clients) / 4, rel=0.1)


async def test_client_stays_on_its_side(served: Served) -> None:
    begin(served, "canary", share=0.4)
    names = [f"client-{number}" for number in range(40)]
    expected = {name: "1" if takes_part(name.encode(), "colours", 0.4) else "2" for name in names}
    assert set(expected.values()) == {"1", "2"}
    for path in ("/predict", "/explain", "/explain"):
        found = {name: await ask(served, {"X-Client-Id": name}, path=path) for name in names}
        assert found == expected
    counted, inside = sums(served), list(expected.values()).count("1")
    assert counted.challenger_requests == 3 * inside
    assert counted.champion_requests == 3 * (len(names) - inside)
    assert counted.challenger_errors == counted.champion_errors == 0
    assert counted.challenger_seconds > 0


async def test_request_id_decides_without_a_client(served: Served) -> None:
    begin(served, "canary", share=0.5)
    for number in range(20):
        name = f"request-{number}"
        expected = "1" if takes_part(name.encode(), "colours", 0.5) else "2"
        assert await ask(served, {"X-Request-Id": name}) == expected
    assert {await ask(served) for _ in range(40)} == {"1", "2"}


async def test_pinned_versions_take_no_part(served: Served) -> None:
    begin(served, "canary")
    assert await ask(served) == "1"
    before = sums(served)
    assert await ask(served, path="/predict?version=2") == "2"
    assert await ask(served, path="/predict?version=1") == "1"
    named = await served.http.post(
        "/predict", files={"image": ("a", PNGS[0], "image/png"), "version": (None, "2")}
    )
    assert named.json()["version"] == "2"
    infer = "/v2/models/colours/versions/2/infer"
    answer = await served.http.post(infer, json=tensor(IMAGES[:1]))
    assert answer.json()["model_version"] == "2"
    assert sums(served) == before


def tensor(images: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
    shape = [len(images), *images[0].shape]
    data = np.stack(images).ravel().tolist()
    return {"inputs": [{"name": "images", "datatype": "UINT8", "shape": shape, "data": data}]}


async def test_open_inference_protocol_has_the_same_sides(served: Served) -> None:
    begin(served, "canary", share=0.4)
    for number in range(10):
        headers = {"X-Client-Id": f"client-{number}"}
        answer = await served.http.post(
            "/v2/models/colours/infer", json=tensor(IMAGES[:1]), headers=headers
        )
        assert answer.json()["model_version"] == await ask(served, headers)


async def test_failures_of_the_service_count_and_those_of_a_client_do_not(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(served, "canary")
    assert (await served.http.post("/predict", content=b"no image")).status_code == 415
    assert sums(served) == Sums()

    def fail(images: object, outputs: object) -> Outputs:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(of(served, "1").batcher._runner, "_run", fail)
    assert (await served.http.post("/predict", content=PNGS[0])).status_code == 500
    assert sums(served) == Sums(challenger_requests=1, challenger_errors=1)


async def test_early_rejection_asks_the_version_that_would_answer(served: Served) -> None:
    begin(served, "canary")
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "query_string": b"",
        "headers": [],
    }

    async def receive() -> Any:
        raise AssertionError("the body is not read")

    with of(served, "1").batcher.admission.admit(RequestContext(), images=4096):
        found = served.application._reject_early(scope, receive, False)
    assert found is not None
    assert found[0].status == 503
    assert (b"x-model-version", b"colours/1") in found[1]
    assert sums(served) == Sums(challenger_requests=1, challenger_errors=1)
    assert served.application._reject_early(scope, receive, False) is None


async def test_rollout_that_has_ended_chooses_the_active_version(served: Served) -> None:
    begin(served, "canary")
    assert await ask(served) == "1"
    rollout = Rollout(kind="canary", version="1", share=1.0, champion="2")
    ended = {"colours": RolloutProgress(rollout, Sums(challenger_requests=7), "rolled back: slow")}
    served.registry.note(State(Plan(1), Plan(1), rollouts=ended))
    assert await ask(served) == "2"
    shown = (await served.http.get("/models/colours")).json()["rollout"]
    assert (shown["ended"], shown["requests"]) == ("rolled back: slow", 7)
    alerted = 'limelight_model_rolled_back{model="colours",version="1"}'
    assert f"{alerted} 1.0" in (await served.http.get("/metrics")).text
    begin(served, "canary")
    assert f"{alerted} 0.0" in (await served.http.get("/metrics")).text
    # A challenger that is not loaded yet, and another champion, change nothing either.
    begin(served, "canary", version="3")
    assert await ask(served) == "2"
    begin(served, "canary", champion="3")
    assert await ask(served) == "2"


async def test_shadow_is_compared_as_numpy_compares_it(served: Served) -> None:
    begin(served, "shadow")
    for image in range(len(PNGS)):
        path = "/explain" if image % 2 else "/predict"
        assert await ask(served, image=image, path=path) == "2"
        await until(lambda done=image + 1: sums(served).compared == done)  # type: ignore[misc]
    ours, theirs = (
        network.probabilities(np.stack(IMAGES)) for network in (CHALLENGER, COLOUR_NETWORK)
    )
    maps, others = (network.cams(np.stack(IMAGES)) for network in (CHALLENGER, COLOUR_NETWORK))
    correlations = [
        spearmanr(maps[at, index].ravel(), others[at, index].ravel()).statistic
        for at, index in enumerate(ours.argmax(1))
    ]
    found = sums(served)
    assert 0 < found.agreed < len(IMAGES)
    assert found.agreed == (ours.argmax(1) == theirs.argmax(1)).sum()
    assert found.differences == found.correlations == len(IMAGES)
    assert found.difference == pytest.approx(np.abs(ours - theirs).mean(1).sum(), rel=1e-4)
    # Float32 may order two positions that are almost equal otherwise.
    assert found.correlation == pytest.approx(sum(correlations), abs=0.1)
    metrics = (await served.http.get("/metrics")).text
    key = 'model="colours"'
    assert f'shadow_images_total{{{key},result="compared",version="1"}} 12.0' in metrics
    assert f'shadow_agreements_total{{{key},version="1"}} {found.agreed:.1f}' in metrics
    assert f'shadow_probability_difference_count{{{key},version="1"}} 12.0' in metrics
    assert f'shadow_map_correlation_bucket{{le="1.0",{key},version="1"}} 12.0' in metrics


async def test_shadow_gets_every_image_of_a_batch_once(served: Served) -> None:
    begin(served, "shadow")
    answer = await served.http.post("/v2/models/colours/infer", json=tensor(IMAGES[:5]))
    assert answer.status_code == 200
    await until(lambda: sums(served).compared == 5)
    await served.http.post("/explain?zoom=true", content=PNGS[0])
    await until(lambda: sums(served).compared == 6)


async def test_share_of_the_requests_is_shadowed(served: Served) -> None:
    begin(served, "shadow", share=0.3)
    for number in range(10):
        before, name = sums(served), f"request-{number}"
        await ask(served, {"X-Request-Id": name})
        if takes_part(name.encode(), "colours", 0.3):
            await until(lambda before=before: sums(served).compared > before.compared)  # type: ignore[misc]
        else:
            assert sums(served) == before


async def test_pinned_and_failed_requests_are_not_shadowed(served: Served) -> None:
    begin(served, "shadow")
    await ask(served, path="/predict?version=2")
    await served.http.post("/predict", content=b"no image")
    assert sums(served) == Sums()


async def test_answers_do_not_wait_for_the_shadow_and_more_is_shed(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(served, "shadow")
    batcher, gate, ran = of(served, "1").batcher, threading.Event(), threading.Event()
    run = batcher._runner._run

    def slow(images: NDArray[np.uint8], outputs: Sequence[str]) -> Outputs:
        ran.set()
        assert gate.wait(WAIT_S)
        return run(images, outputs)

    monkeypatch.setattr(batcher._runner, "_run", slow)
    for _ in range(4):  # all are answered while the first comparison hangs
        await ask(served)
        await until(ran.is_set)
    assert sums(served) == Sums(shed=3)
    gate.set()
    await until(lambda: sums(served).compared == 1)


async def test_shadow_rests_after_a_comparison(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "REST", 1e6)
    begin(served, "shadow")
    await ask(served)
    await until(lambda: sums(served).compared == 1)
    await ask(served)
    assert sums(served).shed == 1


async def test_shadow_is_shed_while_another_request_waits(served: Served) -> None:
    begin(served, "shadow")
    with of(served, "2").batcher.admission.admit(RequestContext()):
        await ask(served)
    assert sums(served) == Sums(shed=1)


async def test_shadow_that_has_not_begun_gives_way_to_a_request(served: Served) -> None:
    """The worker is idle when the comparison is offered, and busy when its turn comes."""
    answers = iter([True, False])
    offered, counted = Shadow(Metrics(), lambda: next(answers)), Tally(0.0)
    challenger = of(served, "1")
    ran: list[int] = []
    run = challenger.batcher._runner._run

    def watched(images: NDArray[np.uint8], outputs: Sequence[str]) -> Outputs:
        ran.append(len(images))
        return run(images, outputs)

    challenger.batcher._runner._run = watched
    found = {"probabilities": np.zeros((1, 3), np.float32)}
    pair = Pair(of(served, "2"), challenger, counted)
    offered.offer(pair, np.stack(IMAGES[:1]), found)
    await until(lambda: counted.sums.shed == 1)
    assert not ran


async def test_failing_shadow_is_only_counted(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begin(served, "shadow")

    def fail(images: object, outputs: object) -> Outputs:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(of(served, "1").batcher._runner, "_run", fail)
    assert await ask(served) == "2"
    await until(lambda: sums(served).failed == 1)
    assert "the shadow colours 1 has failed" in caplog.text
    assert await ask(served) == "2"


async def test_shadow_that_prepares_images_differently_reports_a_problem(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(served, "shadow")
    other = of(served, "1").manifest
    image = other.image.model_copy(update={"background": 0})
    monkeypatch.setattr(of(served, "1"), "manifest", other.model_copy(update={"image": image}))
    assert await ask(served) == "2"
    tally = served.registry.rollouts.tallies()["colours"]
    assert "prepare images differently" in tally.problem
    assert tally.sums == Sums()


async def test_key_decides_where_the_header_is_missing(tmp_path: Path) -> None:
    write_artifact(tmp_path / "zoo", version="1")
    write_artifact(tmp_path / "zoo", version="2", network=CHALLENGER)
    (tmp_path / "keys.toml").write_text(keys_text())
    settings = Settings(
        models=tmp_path / "zoo",
        default_model="colours",
        device="cpu",
        versions="specific:1,2",
        keys_file=tmp_path / "keys.toml",
        canary_header="X-Tenant",
    )
    share = 0.371  # between the positions of these names
    sides = {
        name: "1" if takes_part(name.encode(), "colours", share) else "2"
        for name in ("shop", "maps", "chief", "tenant")
    }
    assert set(sides.values()) == {"1", "2"}
    tenant = sides.pop("tenant")
    async with Served(settings) as served:
        begin(served, "canary", share=share)
        for name, side in sides.items():
            for _ in range(3):
                assert await ask(served, bearer(name)) == side
            assert await ask(served, bearer(name) | {"X-Tenant": "tenant"}) == tenant
