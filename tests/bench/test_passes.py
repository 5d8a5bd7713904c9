"""Ways to run a forward pass: they agree, one that does not is found, what is missing is said."""

from pathlib import Path

import numpy as np
import pytest

from bench import passes
from bench.common.report import Report
from bench.passes import Outputs, Pass, Setup
from limelight.artifact.store import load_artifact
from tests.serving_kit import COLOUR_NETWORK, write_artifact


def compare(folder: Path, *, batches: tuple[int, ...] = (1, 3)) -> passes.Comparison:
    artifact = load_artifact(folder)
    return passes.measure(
        artifact, device="cpu", threads=1, batches=batches, repeats=2, seconds=0.01
    )


@pytest.fixture(scope="module")
def fp16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("zoo"), fp16=True)


def setup(folder: Path, images_nhwc: np.ndarray) -> Setup:
    return Setup(load_artifact(folder), "float32", images_nhwc, "cpu", "CPU", 1)


def test_every_way_of_a_cpu_gives_numpys_probabilities_each_time_again(fp16: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 8, 8, 3), np.uint8)
    for name in ("engine", "run", "bound"):
        once = passes.WAYS[name](setup(fp16, images))
        first = once()
        images[...] = rng.integers(0, 256, images.shape, np.uint8)
        wanted = COLOUR_NETWORK.probabilities(images)
        before = first["probabilities"].copy()
        np.testing.assert_allclose(once()["probabilities"], wanted, atol=1e-5)
        np.testing.assert_array_equal(first["probabilities"], before)


def test_what_a_machine_without_a_gpu_can_do_is_timed_and_the_rest_explained(fp16: Path) -> None:
    made = compare(fp16)
    timed = {(each.way, each.batch) for each in made.measured}
    ways = ["engine", "engine", "run", "bound"]
    suffixes = ["", ", two at once", "", ""]
    assert timed == {
        (f"{way}, {precision}{suffix}", batch)
        for precision in ("float32", "float16")
        for way, suffix in zip(ways, suffixes, strict=True)
        for batch in (1, 3)
    }
    assert all(0 < each.images_per_s.least <= each.images_per_s.most for each in made.measured)
    assert made.provider == "CPU"
    needing_a_gpu = {
        f"{way}, {precision}" for way in ("pinned", "graph") for precision in ("float32", "float16")
    }
    assert set(made.missing) == needing_a_gpu | {f"{way}, int8" for way in passes.WAYS}
    report = Report("passes", {})
    passes.add_to(report, made)
    text = "\n".join(report.tables)
    (row,) = [line for line in text.splitlines() if line.startswith("| run, float32 | 3 |")]
    assert row.endswith("| 1.00 |")
    assert "Not here: graph, float32: CUDA graphs are for a GPU" in text


def test_an_artefact_without_a_float16_graph_says_how_to_get_one(zoo_colours: Path) -> None:
    made = compare(zoo_colours, batches=(2,))
    assert "export it with --fp16" in made.missing["run, float16"]
    assert "export it with --fp16" in made.missing["engine, float16"]


@pytest.fixture(scope="module")
def zoo_colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("zoo"))


def test_a_way_that_gives_something_else_is_not_timed(
    fp16: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(setup: Setup) -> Pass:
        once = passes.plain(setup)

        def run() -> Outputs:
            results = once()
            results["probabilities"] = np.roll(results["probabilities"], 1, 1)
            return results

        return run

    monkeypatch.setitem(passes.WAYS, "bound", stale)
    made = compare(fp16, batches=(2,))
    assert "differ by" in made.missing["bound, float32"]
    assert not [each for each in made.measured if each.way == "bound, float32"]


def test_a_device_that_is_not_there_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fp16: Path
) -> None:
    monkeypatch.setattr("limelight.runtime.onnx_session.cuda_problem", lambda: "there is no driver")
    arguments = ["passes", "--device", "cuda", "--models", str(fp16)]
    monkeypatch.setattr("sys.argv", arguments)
    assert passes.main() == 1
    assert "there is no driver" in capsys.readouterr().err
