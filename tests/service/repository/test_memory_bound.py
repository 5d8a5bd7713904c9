"""Bound of the models' memory: what is refused, what makes room, and what stays."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from service.repository.memory_bound import MemoryBound, Models
from service.repository.plan import Plan, Report
from tests.serving_kit import (
    COLOUR_NETWORK,
    Server,
    bentoml_serve,
    colour_image,
    encode,
    rewrite,
    write_artifact,
)

PNG = encode(colour_image(np.random.default_rng(0)))
# A worker takes as much for such a model, and 12 million bytes more for its first one.
HEAVY_BYTES = 40_000_000


def models(*keys: str) -> Models:
    """Return models as a coordinator selects them; the first version of each is active."""
    found: Models = {}
    for key in keys:
        name, version = key.split("/")
        found.setdefault(name, {})[version] = f"/models/{key}"
    return found


def measured(bound: MemoryBound, unused_s: float = 0.0, **taken: int) -> MemoryBound:
    """Let two workers report what versions (`a_1`) take, and when they were last used."""
    memory = {name.replace("_", "/"): each for name, each in taken.items()}
    used = {key: time.monotonic() - unused_s - number for number, key in enumerate(memory)}
    for pid in (1, 2):
        bound.note([Report(pid, 1, memory=memory, used=used)], Plan())
    return bound


def fit(bound: MemoryBound, found: Models, *served: str, kept: tuple[str, ...] = ()) -> list[str]:
    refused = bound.fit(found, {"a/3": 50, "b/1": 500}, served=served, kept=kept)
    assert not refused, refused
    return [f"{name}/{version}" for name, versions in found.items() for version in versions]


def test_without_a_bound_everything_fits() -> None:
    assert fit(measured(MemoryBound(), a_1=10**12), models("a/1")) == ["a/1"]


def test_model_whose_graph_alone_exceeds_the_bound_is_refused_before_it_is_loaded() -> None:
    bound = measured(MemoryBound(400), a_1=100)
    refused = bound.fit(models("a/1", "b/1"), {"b/1": 500}, served=["a/1"], kept=[])
    assert list(refused) == ["b/1"]
    assert "takes at least 500 bytes" in refused["b/1"]
    assert "models take 600, and LIMELIGHT_MAX_MODEL_BYTES is 400" in refused["b/1"]


def test_measured_memory_counts_once_it_is_known_and_only_the_first_measurement() -> None:
    bound, plan = MemoryBound(400), Plan(2, models("a/1", "b/1"))
    reports = [
        Report(pid, 2, memory={"a/1": 100, "b/1": taken}) for pid, taken in ((1, 280), (2, 350))
    ]
    assert bound.note(reports, plan)  # the median of b/1 is 315
    assert not bound.note(reports, plan)
    assert not bound.note([Report(3, 2, memory={"b/1": 10_000})], plan)
    refused = bound.fit(models("a/1", "b/1"), {"b/1": 1}, served=["a/1"], kept=[])
    assert "b/1" in refused
    assert "takes 315 bytes" in refused["b/1"]


def test_least_recently_used_idle_version_makes_room_for_a_new_one() -> None:
    bound = measured(MemoryBound(250, idle_s=60), unused_s=100, a_2=100, b_2=10, a_1=100)
    chosen = models("a/3", "a/2", "a/1", "b/2")
    assert fit(bound, chosen, "a/2", "a/1", "b/2") == ["a/3", "a/2", "b/2"]
    assert "no image came for 10" in bound.left_out["a/1"]
    # It stays out at the next look, and comes back when an operator asks for it and it fits.
    assert fit(bound, models("a/3", "a/2", "a/1", "b/2"), "a/3", "a/2", "b/2")[1:] == ["a/2", "b/2"]
    bound.forget(["a/1"])
    assert "a/1" in fit(bound, models("a/2", "a/1", "b/2"), "a/2", "b/2")


@pytest.mark.parametrize(
    ("idle_s", "unused_s", "kept"), [(0, 100, ()), (60, 10, ()), (60, 100, ("a/2", "a/1"))]
)
def test_versions_in_use_kept_ones_and_active_ones_are_never_unloaded(
    idle_s: float, unused_s: float, kept: tuple[str, ...]
) -> None:
    bound = measured(MemoryBound(220, idle_s=idle_s), unused_s=unused_s, a_2=100, b_2=10, a_1=100)
    found = models("a/3", "a/2", "a/1", "b/2")
    refused = bound.fit(found, {"a/3": 50}, served=["a/2", "a/1", "b/2"], kept=kept)
    assert list(refused) == ["a/3"]
    assert bound.left_out == {}


def test_nothing_is_unloaded_for_a_model_that_would_not_fit_even_then() -> None:
    bound = measured(MemoryBound(250, idle_s=60), unused_s=100, a_2=100, a_1=100)
    found = models("a/2", "a/1", "b/1")
    assert list(bound.fit(found, {"b/1": 500}, served=["a/2", "a/1"], kept=[])) == ["b/1"]
    assert bound.left_out == {}


def test_last_model_is_kept_once_it_was_loaded_though_it_exceeds_the_bound() -> None:
    bound = measured(MemoryBound(50), a_1=100, b_1=60)
    refused = bound.fit(models("a/1", "b/1"), {}, served=[], kept=[])
    assert list(refused) == ["b/1"]
    assert fit(bound, models("a/1")) == ["a/1"]
    # A new version of it is refused, for the old one can go on.
    measured(bound, a_2=60)
    assert list(bound.fit(models("a/2"), {}, served=["a/1"], kept=[])) == ["a/2"]


def test_new_older_version_is_left_out_before_anything_else() -> None:
    bound = measured(MemoryBound(120), a_2=100)
    assert fit(bound, models("a/2", "a/3"), "a/2") == ["a/2"]
    assert "at least 50 bytes" in bound.left_out["a/3"]
    # Once it is the active one, it counts as such.
    assert fit(bound, models("a/3")) == ["a/3"]
    assert bound.left_out == {}


# With workers


def heavy_graph(weights: int = HEAVY_BYTES // 4) -> bytes:
    """Return the graph of the test network, with weights that it reads and multiplies by nothing.

    ONNX Runtime would drop weights that are not used, or of which nothing depends on the images.
    """
    model = onnx.load_from_string(COLOUR_NETWORK.onnx())
    graph, node = model.graph, helper.make_node
    constants = {"heavy": np.ones(weights, np.float32), "nothing": np.float32(0)}
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    add = next(each for each in graph.node if each.output[0] == "logits")
    add.output[0] = "light"
    place = list(graph.node).index(add) + 1
    for each in (
        node("Shape", ["images"], ["shape"]),
        node("Gather", ["heavy", "shape"], ["some"]),
        node("ReduceMax", ["some"], ["one"], keepdims=0),
        node("Mul", ["one", "nothing"], ["zero"]),
        node("Add", ["light", "zero"], ["logits"]),
    ):
        graph.node.insert(place, each)
        place += 1
    return bytes(model.SerializeToString())


def write_heavy(root: Path, version: str, **options: str) -> Path:
    folder = write_artifact(root, version=version, layercam=False, **options)  # type: ignore[arg-type]
    rewrite(folder, "model.onnx", heavy_graph())
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    for version in ("1", "2"):
        write_heavy(tmp_path / "zoo", version)
    with bentoml_serve(
        tmp_path / "zoo",
        tmp_path / "serve",
        LIMELIGHT_WORKERS="2",
        LIMELIGHT_VERSIONS="latest:3",
        LIMELIGHT_MODELS_POLL_S="0.3",
        LIMELIGHT_TIMEOUT_S="2",
        LIMELIGHT_MAX_MODEL_BYTES=str(110_000_000),
        LIMELIGHT_UNLOAD_IDLE_S="0.5",
    ) as running:
        yield running


def test_idle_version_makes_room_and_what_never_fits_is_refused(
    server: Server, tmp_path: Path
) -> None:
    """The reasons are in the index, and all workers agree."""
    too_heavy = write_artifact(tmp_path / "other", name="heavy", layercam=False)
    rewrite(too_heavy, "model.onnx", heavy_graph(HEAVY_BYTES))
    for _ in range(10):
        httpx.post(f"{server.url}/predict?version=1", content=PNG, timeout=10).raise_for_status()
    write_heavy(tmp_path / "staging", "3")
    (tmp_path / "other" / "heavy").rename(tmp_path / "zoo" / "heavy")
    (tmp_path / "staging" / "colours" / "3").rename(tmp_path / "zoo" / "colours" / "3")
    end = time.monotonic() + 40
    states: dict[tuple[str, str], tuple[str, str]] = {}
    while states.get(("colours", "3"), ("",))[0] != "READY":
        assert time.monotonic() < end, states
        time.sleep(0.3)
        index = httpx.post(f"{server.url}/v2/repository/index", content=b"{}", timeout=10).json()
        states = {(e["name"], e["version"]): (e["state"], e["reason"]) for e in index}
    assert states["heavy", "1"][0] == "UNAVAILABLE"
    assert "LIMELIGHT_MAX_MODEL_BYTES" in states["heavy", "1"][1]
    assert "unloaded to make room" in states["colours", "2"][1]
    assert states["colours", "1"][0] == "READY"
    time.sleep(0.3)
    for _ in range(10):  # on new connections, so that every worker answers
        pinned = httpx.post(f"{server.url}/predict?version=2", content=PNG, timeout=10)
        assert pinned.status_code == 404
        active = httpx.post(f"{server.url}/predict", content=PNG, timeout=10)
        assert active.json()["version"] == "3"
    metrics = httpx.get(f"{server.url}/metrics", timeout=10).text
    assert 'limelight_model_refused{model="heavy",version="1"} 1.0' in metrics
    memory = [line for line in metrics.splitlines() if line.startswith("limelight_model_memory")]
    assert any('version="3"' in line and not line.endswith(" 0.0") for line in memory), memory
