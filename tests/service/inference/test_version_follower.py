"""Follower: what a worker prepares, and what it tells between the steps of the parent."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

from service.inference.model_registry import ModelRegistry
from service.inference.version_follower import Follower
from service.repository.plan import Plan, Report, State
from service.repository.shared_json import SharedJson
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.serving_kit import write_artifact


async def test_failure_at_the_start_is_told_before_the_parent_knows_of_it(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path)
    (folder / "model.onnx").write_bytes(b"no graph")
    plan = Plan(1, {"colours": {"1": str(folder)}})
    shared = SharedJson.create(workers=1)
    shared.write(0, State(plan, plan).to_json())
    registry = ModelRegistry(Settings(models=tmp_path), Metrics())
    follower = Follower(shared, 0, registry, timeout_s=1)

    follower.load()
    follower.check()
    assert "its manifest says" in registry.refused["colours", "1"]
    report = shared.read(1)
    assert report is not None
    assert Report.from_json(report).failed.keys() == {"colours/1"}

    shared.write(0, replace(State(plan, plan), refused={"colours/1": "by the parent"}).to_json())
    follower.check()
    assert registry.refused == {("colours", "1"): "by the parent"}
    follower.close()
    await registry.close()


async def test_version_that_comes_back_before_it_has_left_is_served(tmp_path: Path) -> None:
    """It is in the next plan, but not in the one that the worker is about to switch to."""
    folders = {each: str(write_artifact(tmp_path, version=each)) for each in ("1", "2")}
    both, one = {"colours": folders}, {"colours": {"1": folders["1"]}}
    shared = SharedJson.create(workers=1)
    shared.write(0, State(Plan(1, both), Plan(1, both)).to_json())
    registry = ModelRegistry(Settings(models=tmp_path), Metrics())
    follower = Follower(shared, 0, registry, timeout_s=1)
    follower.load()

    async def reported(generation: int) -> None:
        while Report.from_json(shared.read(1)).generation != generation:
            follower.check()
            await asyncio.sleep(0.01)

    shared.write(0, State(Plan(1, both), Plan(2, one)).to_json())
    await reported(2)
    soon = time.monotonic() + 0.3
    shared.write(0, State(Plan(2, one), Plan(3, both), since=soon).to_json())
    await reported(3)
    shared.write(0, State(Plan(3, both), Plan(3, both)).to_json())
    while time.monotonic() < soon + 0.5 or registry.versions_of("colours") != ("1", "2"):
        assert time.monotonic() < soon + 10
        follower.check()
        await asyncio.sleep(0.01)
    follower.close()
    await registry.close()


async def test_worker_tells_which_model_is_the_default_one(tmp_path: Path) -> None:
    folders = {name: {"1": str(write_artifact(tmp_path, name=name))} for name in ("one", "two")}
    both, second = Plan(1, folders), Plan(2, {"two": folders["two"]})
    shared = SharedJson.create(workers=1)
    shared.write(0, State(both, both).to_json())
    registry = ModelRegistry(Settings(models=tmp_path), Metrics())
    follower = Follower(shared, 0, registry, timeout_s=1)
    follower.load()
    assert Report.from_json(shared.read(1)).default == "one"
    for state in (State(both, second), State(second, second)):
        shared.write(0, state.to_json())
        for _ in range(20):
            follower.check()
            await asyncio.sleep(0.02)
    assert Report.from_json(shared.read(1)).default == "two"
    follower.close()
    await registry.close()
