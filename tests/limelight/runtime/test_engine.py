import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx.external_data_helper
import onnxruntime as ort
import pytest

from limelight.artifact.store import Artifact, ArtifactError, OnnxGraph, load_artifact
from limelight.runtime.engine import Engine
from limelight.runtime.io_binding import IoBinding
from limelight.runtime.onnx_session import EngineError, cuda_problem, open_session
from tests.serving_kit import (
    COLOUR_NETWORK,
    DIGIT_NETWORK,
    REPOSITORY,
    rewrite,
    write_artifact,
)

no_gpu = pytest.mark.skipif(cuda_problem() is None, reason="this machine has a usable GPU")


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_outputs_match_numpy(colours: Artifact, rng: np.random.Generator, batch: int) -> None:
    images = rng.integers(0, 256, (batch, 8, 8, 3), np.uint8)
    results = Engine(colours, device="cpu").run(images, ["logits", "probabilities", "cams"])
    np.testing.assert_allclose(results["logits"], COLOUR_NETWORK.logits(images), atol=1e-5)
    np.testing.assert_allclose(results["cams"], COLOUR_NETWORK.cams(images), atol=1e-5)
    np.testing.assert_allclose(
        results["probabilities"], COLOUR_NETWORK.probabilities(images), atol=1e-6
    )


def test_only_requested_outputs_are_returned(digits: Artifact) -> None:
    results = Engine(digits, device="cpu").run(np.zeros((1, 28, 28, 1), np.uint8), ["logits"])
    assert list(results) == ["logits"]
    np.testing.assert_allclose(results["logits"][0], DIGIT_NETWORK.bias, atol=1e-6)


def test_images_of_another_size_or_type_raise_a_value_error(colours: Artifact) -> None:
    engine = Engine(colours, device="cpu")
    with pytest.raises(ValueError, match="must be uint8"):
        engine.run(np.zeros((1, 9, 8, 3), np.uint8), ["logits"])
    with pytest.raises(ValueError, match="must be uint8"):
        engine.run(np.zeros((1, 8, 8, 3), np.float32), ["logits"])


def test_unknown_output_raises_an_engine_error(colours: Artifact) -> None:
    with pytest.raises(EngineError, match="nonsense"):
        Engine(colours, device="cpu").run(np.zeros((1, 8, 8, 3), np.uint8), ["nonsense"])


def test_provider_is_read_from_the_session(colours: Artifact) -> None:
    assert Engine(colours, device="cpu").provider == "CPU"


@no_gpu
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_missing_gpu_that_is_demanded_raises_an_error_with_the_reason(
    colours: Artifact, device: str
) -> None:
    with pytest.raises(EngineError, match=f"{device}.*(driver|CUDA|GPU).*LIMELIGHT_DEVICE=auto"):
        Engine(colours, device=device)  # type: ignore[arg-type]


def test_a_silent_fallback_of_the_runtime_is_detected(
    colours: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulates a machine with a driver but without CUDA's libraries."""
    monkeypatch.setattr("limelight.runtime.onnx_session.cuda_problem", lambda: None)
    monkeypatch.setattr(
        "limelight.runtime.onnx_session._create",
        lambda graph, options, provider: ort.InferenceSession(
            graph.content, options, providers=["CPUExecutionProvider"]
        ),
    )
    with pytest.raises(EngineError, match="'cuda' is demanded"):
        Engine(colours, device="cuda")
    assert Engine(colours, device="auto").provider == "CPU"


@pytest.fixture
def with_fp16(tmp_path: Path) -> Artifact:
    return load_artifact(write_artifact(tmp_path, fp16=True))


def test_fp16_graph_is_run_if_demanded(with_fp16: Artifact, rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (7, 8, 8, 3), np.uint8)
    exact = Engine(with_fp16, device="cpu")
    assert (exact.precision, exact.file) == ("float32", "model.onnx")
    fp16 = Engine(with_fp16, device="cpu", precision="float16")
    assert (fp16.precision, fp16.file) == ("float16", "model.fp16.onnx")
    expected, rounded = (each.run(images, ["features", "probabilities"]) for each in (exact, fp16))
    np.testing.assert_array_equal(
        rounded["features"], expected["features"].astype(np.float16).astype(np.float32)
    )
    np.testing.assert_allclose(rounded["probabilities"], expected["probabilities"], atol=2e-3)
    assert rounded["probabilities"].dtype == np.float32
    # LayerCAM maps have a graph of their own, in float32.
    layercams = [each.run(images, ["layercams"])["layercams"] for each in (exact, fp16)]
    np.testing.assert_array_equal(layercams[0], layercams[1])


def test_missing_fp16_graph_raises_an_engine_error(colours: Artifact) -> None:
    with pytest.raises(EngineError, match=r"no float16 graph.*--fp16.*LIMELIGHT_PRECISION=auto"):
        Engine(colours, device="cpu", precision="float16")


def test_auto_precision_selects_fp16_on_a_gpu_only(
    with_fp16: Artifact, colours: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session on the CPU stands in for a CUDA session."""
    monkeypatch.setattr("limelight.runtime.engine.cuda_problem", lambda: None)
    monkeypatch.setattr("limelight.runtime.onnx_session.cuda_problem", lambda: None)
    monkeypatch.setattr(
        "limelight.runtime.onnx_session._create",
        lambda graph, options, provider: ort.InferenceSession(
            graph.content, options, providers=["CPUExecutionProvider"]
        ),
    )
    # There is a driver, but the session falls back to the CPU.
    assert Engine(with_fp16).precision == "float32"
    for module in ("limelight.runtime.sessions", "limelight.runtime.onnx_session"):
        monkeypatch.setattr(f"{module}.provider_of", lambda session: "CUDA")
    assert Engine(with_fp16).precision == "float16"
    assert Engine(with_fp16, device="cuda").file == "model.fp16.onnx"
    assert Engine(with_fp16, precision="float32").precision == "float32"
    assert Engine(with_fp16, device="cpu").precision == "float32"
    assert Engine(colours).precision == "float32"  # has no fp16 graph


@no_gpu
def test_auto_device_falls_back_to_the_cpu_with_a_single_warning(zoo: Path) -> None:
    code = (
        "import sys, pathlib; from limelight.artifact.store import load_artifact;"
        "from limelight.runtime.engine import Engine; import logging; logging.basicConfig();"
        "folders = [pathlib.Path(p) for p in sys.argv[1:]];"
        "print([Engine(load_artifact(f)).provider for f in folders])"
    )
    folders = [str(zoo / "colours" / "1"), str(zoo / "digits" / "12")]
    process = subprocess.run(
        [sys.executable, "-c", code, *folders],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.strip() == "['CPU', 'CPU']"
    assert process.stderr.count("\n") == 1
    assert "no usable GPU" in process.stderr


def test_serving_modules_import_neither_torch_nor_bentoml() -> None:
    """The pipeline imports these modules too. The service must not import torch."""
    code = (
        "import sys, limelight.artifact.store, limelight.runtime.engine;"
        "import limelight.imaging.preprocessing;"
        "assert not {'bentoml', 'starlette', 'torch'} & set(sys.modules);"
        "import service.bento;"
        "assert not {'torch', 'onnx', 'pipeline', 'models'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_file_that_is_not_a_graph_raises_an_error(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path)
    rewrite(folder, "model.onnx", b"\x08\x09")  # a version, and no graph
    with pytest.raises(EngineError, match="cannot load"):
        Engine(load_artifact(folder), device="cpu")
    rewrite(folder, "model.onnx", b"not a graph")
    with pytest.raises(ArtifactError, match=r"model\.onnx is not an ONNX graph"):
        Engine(load_artifact(folder), device="cpu")


def test_file_that_changes_after_its_verification_is_not_run(tmp_path: Path) -> None:
    artifact = load_artifact(write_artifact(tmp_path))
    other = replace(COLOUR_NETWORK, bias=np.array([9, 0, 0], np.float32)).onnx()
    artifact.onnx_path.write_bytes(other)
    with pytest.raises(ArtifactError, match=r"model\.onnx has SHA-256"):
        Engine(artifact, device="cpu")


def with_external_weights(folder: Path, location: str) -> bytes:
    """Move the weights of the graph to `location`, and return them."""
    model = onnx.load(folder / "model.onnx")
    (weight,) = (each for each in model.graph.initializer if each.name == "weight")
    content = bytes(weight.raw_data)
    onnx.external_data_helper.set_external_data(weight, location, 0, len(content))
    weight.ClearField("raw_data")
    rewrite(folder, "model.onnx", model.SerializeToString())
    return content


def test_weights_in_a_file_of_the_manifest_are_verified_and_used(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    folder = write_artifact(tmp_path, layercam=False)
    rewrite(folder, "weights.bin", with_external_weights(folder, "weights.bin"), "onnx-data")
    images = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
    artifact = load_artifact(folder)
    engine = Engine(artifact, device="cpu")
    expected = COLOUR_NETWORK.logits(images)
    np.testing.assert_allclose(engine.run(images, ["logits"])["logits"], expected, atol=1e-5)
    (folder / "weights.bin").write_bytes(np.zeros((3, 3), np.float32).tobytes())
    with pytest.raises(ArtifactError, match=r"weights\.bin has SHA-256"):
        load_artifact(folder)
    with pytest.raises(ArtifactError, match=r"weights\.bin has SHA-256"):
        Engine(artifact, device="cpu")
    # The bytes that were verified are in memory, so nothing is read from the file any more.
    np.testing.assert_allclose(engine.run(images, ["logits"])["logits"], expected, atol=1e-5)


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "{folder}/weights.bin"])
def test_weights_in_a_file_outside_the_manifest_are_refused(tmp_path: Path, location: str) -> None:
    folder = write_artifact(tmp_path, layercam=False)
    location = location.format(folder=folder)
    content = with_external_weights(folder, location)
    (folder / location).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"weights\.bin', which its manifest does not list"):
        Engine(load_artifact(folder), device="cpu")


def test_graph_that_differs_from_its_manifest_raises_an_engine_error(tmp_path: Path) -> None:
    inputs = [{"name": "images", "dtype": "uint8", "shape": ["batch", 8, 8, 3]}]
    shapes = {"logits": [3], "probabilities": [3], "cams": [3, 2, 2], "features": [3, 4, 4]} | {
        "ood_score": [],
        "layercams": [3, 8, 8],
    }
    outputs = [
        {"name": name, "dtype": "float32", "shape": ["batch", *shape]}
        for name, shape in shapes.items()
    ]
    artifact = load_artifact(write_artifact(tmp_path, inputs=inputs, outputs=outputs))
    with pytest.raises(EngineError, match="'cams' is tensor"):
        Engine(artifact, device="cpu")


def test_contradictory_manifest_raises_an_engine_error(tmp_path: Path) -> None:
    artifact = load_artifact(write_artifact(tmp_path, classes=["red", "green"]))
    with pytest.raises(EngineError, match="contradicts itself"):
        Engine(artifact, device="cpu")


def test_warm_up_detects_outputs_that_are_not_finite(
    colours: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(colours, device="cpu")
    assert engine.warm_up() > 0
    run = engine._sessions.run

    def broken(*arguments: Any) -> list[np.ndarray]:
        return [value * np.nan for value in run(*arguments)]

    monkeypatch.setattr(engine._sessions, "run", broken)
    with pytest.raises(EngineError, match="not finite"):
        engine.warm_up()


@pytest.mark.parametrize("batch", [0, 1, 2, 3, 5, 8])
def test_io_binding_pads_the_batch_and_returns_the_same_outputs(
    colours: Artifact, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    plain, bound = Engine(colours, device="cpu"), Engine(colours, device="cpu", io_binding=True)
    bound.warm_up()
    # A run without I/O binding would fail.
    monkeypatch.setattr(bound._sessions, "run", None)
    for _ in range(2):
        images = rng.integers(0, 256, (batch, 8, 8, 3), np.uint8)
        expected, got = (engine.run(images, ["logits", "cams"]) for engine in (plain, bound))
        for name, values in expected.items():
            assert got[name].shape == values.shape
            np.testing.assert_allclose(got[name], values, rtol=1e-6)


def test_layercam_maps_run_in_buffers_of_their_own(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = load_artifact(write_artifact(tmp_path, layercam=True))
    plain, bound = Engine(artifact, device="cpu"), Engine(artifact, device="cpu", io_binding=True)
    bound.warm_up()
    assert bound._layercam is not None
    # A run without I/O binding would fail.
    monkeypatch.setattr(bound._layercam, "run", None)
    images = rng.integers(0, 256, (11, 8, 8, 3), np.uint8)
    expected, got = (engine.run(images, ["logits", "layercams"]) for engine in (plain, bound))
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-5, atol=1e-6)


def test_on_a_gpu_no_session_sees_two_batch_sizes(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pretend that the CPU is a GPU, where a session is slow whenever the batch size changes."""
    monkeypatch.setattr("limelight.runtime.sessions.provider_of", lambda _: "CUDA")
    monkeypatch.setattr("limelight.runtime.engine.cuda.page_locked", np.empty)
    seen: list[set[int]] = []

    class Watched:
        def __init__(self, session: ort.InferenceSession) -> None:
            self.session = session
            self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs
            seen.append(set())
            self.sizes = seen[-1]

        def run(self, names: Any, feed: Any) -> Any:
            self.sizes.add(len(feed["images"]))
            return self.session.run(names, feed)

    def open_watched(graph: OnnxGraph, **_: object) -> Watched:
        return Watched(open_session(graph, device="cpu", threads=1))

    monkeypatch.setattr("limelight.runtime.engine.open_session", open_watched)
    artifact = load_artifact(write_artifact(tmp_path, layercam=True))
    engine = Engine(artifact, io_binding=False)
    engine.warm_up((1, 2, 4, 8))
    for batch in (3, 1, 8, 2, 5, 1):
        images = rng.integers(0, 256, (batch, 8, 8, 3), np.uint8)
        for outputs in (["logits", "cams"], ["layercams"]):
            assert engine.run(images, outputs)[outputs[0]].shape[0] == batch
    assert sorted(map(sorted, seen)) == [[1], [1], [2], [2], [4], [4], [8], [8]]


@pytest.mark.parametrize("fault", ["stale", "broken"])
def test_io_binding_that_gives_other_outputs_is_turned_off_with_a_warning(
    colours: Artifact,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    """Simulates inputs that are copied when they are bound instead of in each forward pass."""
    first: dict[int, list[np.ndarray]] = {}
    real = IoBinding.run

    def run(
        io_binding: IoBinding, images: np.ndarray, outputs: list[str]
    ) -> list[np.ndarray] | None:
        if fault == "broken":
            raise MemoryError("no page-locked memory")
        return first.setdefault(len(images), real(io_binding, images, outputs) or [])

    monkeypatch.setattr(IoBinding, "run", run)
    engine = Engine(colours, device="cpu", io_binding=True)
    engine.warm_up()
    (record,) = caplog.records
    assert record.getMessage().startswith("colours runs without I/O binding: ")
    assert {"stale": "differ by", "broken": "no page-locked memory"}[fault] in record.getMessage()
    images = rng.integers(0, 256, (2, 8, 8, 3), np.uint8)
    np.testing.assert_allclose(
        engine.run(images, ["logits"])["logits"], COLOUR_NETWORK.logits(images), atol=1e-5
    )
