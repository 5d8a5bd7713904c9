"""Choice of the precision: right on the golden samples first, then the time it takes."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from limelight.artifact.golden import read_golden
from limelight.artifact.manifest import LAYERCAMS
from limelight.artifact.store import Artifact, load_artifact
from limelight.runtime import precision
from limelight.runtime.engine import Engine
from limelight.runtime.onnx_session import EngineError
from limelight.runtime.precision import Speedups, choose_engine
from tests.serving_kit import COLOUR_NETWORK, rewrite, write_artifact

RIGHT = replace(COLOUR_NETWORK, bias=COLOUR_NETWORK.bias + np.float32(1e-4))
WRONG = replace(COLOUR_NETWORK, weight=COLOUR_NETWORK.weight * np.float32(0.9))


def artifact_with(tmp_path: Path, **options: Any) -> Artifact:
    return load_artifact(write_artifact(tmp_path, golden=True, **options))


def set_speedup(monkeypatch: pytest.MonkeyPatch, speedup: float) -> None:
    monkeypatch.setattr(precision, "_speedup", lambda *engines, **options: speedup)


def test_auto_runs_int8_if_it_is_right_and_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_speedup(monkeypatch, 1.7)
    engine = choose_engine(artifact_with(tmp_path, int8=RIGHT), device="cpu")
    assert (engine.precision, engine.file) == ("int8", "model.int8.onnx")
    assert engine.precision_reason == "it is right and 1.70 times as fast on this processor"


def test_auto_runs_float32_if_int8_is_not_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_speedup(monkeypatch, 1.05)
    engine = choose_engine(artifact_with(tmp_path, int8=RIGHT), device="cpu")
    assert (engine.precision, engine.file) == ("float32", "model.onnx")
    assert engine.precision_reason == "int8 is only 1.05 times as fast on this processor"


def test_wrong_int8_graph_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_speedup(monkeypatch, 10.0)
    artifact = artifact_with(tmp_path, int8=WRONG)
    engine = choose_engine(artifact, device="cpu")
    assert engine.precision == "float32"
    assert "model.int8.onnx of colours gives wrong answers" in engine.precision_reason
    with pytest.raises(EngineError, match=r"int8.*wrong answers.*LIMELIGHT_PRECISION=auto"):
        choose_engine(artifact, device="cpu", precision="int8")


def test_float32_graph_that_is_wrong_here_is_not_served(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path, golden=True, layercam=False)
    rewrite(folder, "model.onnx", WRONG.onnx())
    with pytest.raises(EngineError, match=r"model.onnx of colours gives wrong answers"):
        choose_engine(load_artifact(folder), device="cpu")


def test_precision_that_is_demanded_runs_without_timing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_speedup(monkeypatch, 0.1)
    artifact = artifact_with(tmp_path, int8=RIGHT)
    engine = choose_engine(artifact, device="cpu", precision="int8")
    assert (engine.precision, engine.precision_reason) == ("int8", "int8 is demanded")
    assert choose_engine(artifact, device="cpu", precision="float32").precision == "float32"


def test_int8_graph_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no int8 graph.*--int8.*LIMELIGHT_PRECISION=auto"):
        choose_engine(artifact_with(tmp_path), device="cpu", precision="int8")


def test_int8_without_golden_samples_is_not_chosen(tmp_path: Path) -> None:
    artifact = load_artifact(write_artifact(tmp_path, int8=RIGHT))
    engine = choose_engine(artifact, device="cpu")
    assert engine.precision == "float32"
    assert engine.precision_reason == "the model has no int8 graph with golden samples"


def test_limit_follows_the_error_at_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_speedup(monkeypatch, 2.0)
    artifact = artifact_with(tmp_path, int8=WRONG)
    golden = read_golden(artifact)
    assert golden is not None
    assert artifact.manifest.golden is not None
    outputs = Engine(artifact, device="cpu", precision="int8").run(
        golden.images, ["probabilities", "cams"]
    )
    # The same graph, as if the export had measured that error.
    measured = artifact.manifest.golden.model_copy(
        update={"errors": {"model.int8.onnx": golden.error_of(outputs)}}
    )
    known = replace(artifact, manifest=artifact.manifest.model_copy(update={"golden": measured}))
    assert choose_engine(known, device="cpu").precision == "int8"


class Timed:
    """Engine whose forward pass takes some seconds of a clock that the test owns."""

    def __init__(self, manifest: Any, clock: list[float], seconds: list[float]) -> None:
        self.manifest, self._clock, self._seconds = manifest, clock, seconds
        self.runs = 0

    def run(self, images: NDArray[np.uint8], outputs: Any) -> None:
        self._clock[0] += self._seconds[min(self.runs, len(self._seconds) - 1)]
        self.runs += 1


@pytest.mark.parametrize("threads", [1, 2])
def test_speedup_is_the_ratio_of_the_shortest_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """The first run of each is slow, as it is after a start.

    With one thread it is the processor time that counts: requests may be served meanwhile.
    """
    artifact, clock = artifact_with(tmp_path), [0.0]
    busy = iter(range(0, 1000, 50))
    monkeypatch.setattr("time.thread_time", lambda: clock[0])
    monkeypatch.setattr("time.perf_counter", lambda: clock[0] + (threads == 1) * next(busy))
    golden = read_golden(artifact)
    assert golden is not None
    plain = Timed(artifact.manifest, clock, [1.0, 0.034])
    other = Timed(artifact.manifest, clock, [0.9, 0.017])
    speedup = precision._speedup(cast(Engine, plain), cast(Engine, other), golden, threads=threads)
    assert speedup == pytest.approx(2.0)
    assert plain.runs == other.runs == 3  # the ratio is clear


def test_speedup_near_the_limit_is_timed_for_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, clock = artifact_with(tmp_path), [0.0]
    monkeypatch.setattr("time.thread_time", lambda: clock[0])
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    golden = read_golden(artifact)
    assert golden is not None
    plain = Timed(artifact.manifest, clock, [0.012, 0.012, 0.012, 0.011])
    other = Timed(artifact.manifest, clock, [0.010])
    speedup = precision._speedup(cast(Engine, plain), cast(Engine, other), golden, threads=1)
    assert speedup == pytest.approx(1.1)
    assert plain.runs == other.runs == 10  # 0.2 seconds are over


def test_another_version_is_not_timed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_speedup(monkeypatch, 1.7)
    speedups: Speedups = {}
    choose_engine(artifact_with(tmp_path / "1", int8=RIGHT), device="cpu", speedups=speedups)
    set_speedup(monkeypatch, 0.5)
    opened: list[str] = []
    open_engine = Engine.__init__

    def watched(self: Engine, artifact: Artifact, **options: Any) -> None:
        open_engine(self, artifact, **options)
        opened.append(self.file)

    monkeypatch.setattr(Engine, "__init__", watched)
    engine = choose_engine(
        artifact_with(tmp_path / "2", int8=RIGHT), device="cpu", speedups=speedups
    )
    assert engine.precision_reason == "it is right and 1.70 times as fast on this processor"
    assert opened == ["model.int8.onnx"]
    # It is checked, however.
    engine = choose_engine(
        artifact_with(tmp_path / "3", int8=WRONG), device="cpu", speedups=speedups
    )
    assert engine.precision == "float32"
    assert "model.int8.onnx of colours gives wrong answers" in engine.precision_reason


def test_graphs_of_one_artefact_share_the_layercam_graph(tmp_path: Path) -> None:
    artifact = artifact_with(tmp_path, int8=RIGHT)
    engine = Engine(artifact, device="cpu", precision="float32")
    other = Engine(artifact, device="cpu", precision="int8", layercam_of=engine)
    assert other._layercam is engine._layercam is not None
    golden = read_golden(artifact)
    assert golden is not None
    one, two = (each.run(golden.images, [LAYERCAMS])[LAYERCAMS] for each in (engine, other))
    assert np.array_equal(one, two)
