"""Follower: what a worker prepares, and what it tells between the steps of the parent."""

from dataclasses import replace
from pathlib import Path

from service.inference.model_registry import ModelRegistry
from service.repository.follower import Follower
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
    assert Report(**report).failed.keys() == {"colours/1"}

    shared.write(0, replace(State(plan, plan), refused={"colours/1": "by the parent"}).to_json())
    follower.check()
    assert registry.refused == {("colours", "1"): "by the parent"}
    follower.close()
    await registry.close()
