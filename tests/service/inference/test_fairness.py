"""Fairness of the batcher and the service: what a neighbour of a flood notices."""

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from limelight.api_keys import entry, hash_key
from limelight.errors import LimelightError
from service.access.criticality import read_criticality
from service.caller import Caller
from service.inference.batching import Batcher
from service.inference.image_times import TURN_S
from service.oip.grpc.exchange import status_code
from service.request_context import RequestContext
from service.settings import Settings
from tests.service.access.kit import KEYS, bearer
from tests.service.inference.test_batching import Recorder, busy, image
from tests.service.test_app import PNG, Served

EXPLAIN = "/explain?method=scorecam&evaluations=4"


def of(name: str, share: float = 1.0) -> RequestContext:
    return RequestContext(caller=Caller(name=name, scopes=frozenset(), share=share))


async def test_neighbour_is_in_the_next_batch_whatever_waits_before_it() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=4)
    first = await busy(batcher, recorder)
    flood = [asyncio.create_task(batcher.submit(image(1), ["a"], of("flood"))) for _ in range(60)]
    await asyncio.sleep(0)
    neighbour = asyncio.create_task(batcher.submit(image(2), ["a"], of("neighbour")))
    await asyncio.sleep(0)
    recorder.gate.set()
    await asyncio.gather(first, neighbour, *flood)
    assert 2 in recorder.batches[1][0]
    await batcher.close()


async def test_shares_decide_how_batches_are_divided() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=8)
    first = await busy(batcher, recorder)
    tasks = [
        asyncio.create_task(batcher.submit(image(value), ["a"], of(name, share)))
        for value, name, share in ((1, "one", 1.0), (3, "three", 3.0))
        for _ in range(40)
    ]
    await asyncio.sleep(0)
    recorder.gate.set()
    await asyncio.gather(first, *tasks)
    served = [value for values, _ in recorder.batches[1:5] for value in values]
    assert abs(served.count(3) - 24) <= 2
    await batcher.close()


async def test_background_work_runs_in_turns_and_comes_back_in_order() -> None:
    sizes: list[int] = []

    def run(images_nhwc: NDArray[np.uint8], outputs: Sequence[str]) -> dict[str, Any]:
        sizes.append(len(images_nhwc))
        time.sleep(len(images_nhwc) * TURN_S / 4)
        return {"a": images_nhwc[:, 0, 0, 0, None].astype(np.float32)}

    batcher = Batcher(run, max_batch=32)
    await batcher.submit(image(0), ["a"])  # to measure the seconds per image
    images = np.stack([image(value) for value in range(60)])
    found = await batcher.submit_all(images, ["a"], background=True)
    assert found["a"][:, 0].tolist() == list(range(60))
    assert sum(sizes) == 61
    assert max(sizes) <= 4
    await batcher.close()


def settings(zoo: Path, tmp_path: Path, **changes: Any) -> Settings:
    text = "".join(
        entry(name, hash_key(KEYS[name]), scopes=("predict", "explain"))
        for name in ("shop", "maps")
    )
    (tmp_path / "keys.toml").write_text(text + 'criticality = "critical"\n')
    return Settings(
        models=zoo,
        default_model="colours",
        device="cpu",
        keys_file=tmp_path / "keys.toml",
        **changes,
    )


async def test_expensive_explanation_is_rejected_before_any_work_is_done_for_it(
    zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_settings = Settings(models=zoo, default_model="colours", device="cpu", max_queued=300)
    async with Served(open_settings) as served:
        classifier = served.registry.classifiers["colours"]
        admission = classifier.batcher.admission
        with admission.admit(RequestContext(), images=149, background=True):
            monkeypatch.setattr(classifier, "source", None)  # decoding would fail
            for path in ("/explain?method=scorecam", "/explain?method=occlusion"):
                response = await served.http.post(path, content=PNG)
                assert response.status_code == 503, response.text
                assert response.json()["code"] == "overloaded"
        monkeypatch.undo()
        assert admission.admitted == 0
        for path in (EXPLAIN, "/explain?method=occlusion", "/explain?method=scorecam"):
            assert (await served.http.post(path, content=PNG)).status_code == 200
        for path in ("/explain?method=scorecam&evaluations=1", "/explain?method=scorecam&target=x"):
            assert (await served.http.post(path, content=PNG)).status_code == 422
        assert admission.admitted == 0


async def test_prediction_is_answered_while_masked_images_are_computed(
    zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Served(Settings(models=zoo, default_model="colours", device="cpu")) as served:
        engine = served.registry.classifiers["colours"].engine
        release, run = threading.Event(), engine.run

        def slow(images_nhwc: NDArray[np.uint8], outputs: Sequence[str]) -> Any:
            if threading.current_thread().name.startswith("limelight-background"):
                assert release.wait(20)
            return run(images_nhwc, outputs)

        monkeypatch.setattr(served.registry.classifiers["colours"].batcher._runner, "_run", slow)
        explaining = asyncio.create_task(served.http.post(EXPLAIN, content=PNG))
        for _ in range(3):
            assert (await served.http.post("/predict", content=PNG)).status_code == 200
        assert not explaining.done()
        release.set()
        assert (await explaining).json()["cam"]["method"] == "scorecam"


# Criticality


@pytest.mark.parametrize(
    ("header", "key", "expected"),
    [
        (None, "critical", "default"),
        ("sheddable", "critical", "sheddable"),
        ("Critical", "critical", "critical"),
        ("critical", "default", "default"),
        ("sheddable", "default", "sheddable"),
        ("default", "sheddable", "sheddable"),
    ],
)
def test_key_limits_the_criticality_that_a_request_may_have(
    header: str | None, key: Any, expected: str
) -> None:
    context = RequestContext(caller=Caller(name="x", scopes=frozenset(), criticality=key))
    read_criticality({} if header is None else {b"x-criticality": header.encode()}, context)
    assert context.criticality == expected


def test_unknown_criticality_is_an_invalid_argument_over_grpc() -> None:
    with pytest.raises(LimelightError, match="must be one of sheddable, default, critical") as bad:
        read_criticality({b"x-criticality": b"urgent"}, RequestContext())
    assert status_code(bad.value) is grpc.StatusCode.INVALID_ARGUMENT


async def fill_and_ask(http: httpx.AsyncClient, headers: dict[str, str]) -> dict[str, int]:
    """Return the status of a request of each criticality while the queue is full for default."""
    return {
        each: (
            await http.post("/predict", content=PNG, headers={**headers, "X-Criticality": each})
        ).status_code
        for each in ("sheddable", "default", "critical", "urgent")
    }


async def test_full_queue_takes_critical_requests_of_keys_that_may_send_them(
    zoo: Path, tmp_path: Path
) -> None:
    async with Served(settings(zoo, tmp_path, max_queued=40)) as served:
        admission = served.registry.classifiers["colours"].batcher.admission
        with admission.admit(RequestContext(), images=20):
            half = await fill_and_ask(served.http, bearer("maps"))
            assert half == {"sheddable": 503, "default": 200, "critical": 200, "urgent": 422}
        with admission.admit(RequestContext(), images=40):
            full = await fill_and_ask(served.http, bearer("maps"))
            assert full == {"sheddable": 503, "default": 503, "critical": 200, "urgent": 422}
            other = await fill_and_ask(served.http, bearer("shop"))
            assert other == {"sheddable": 503, "default": 503, "critical": 503, "urgent": 422}
