import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from limelight.artifact.store import Artifact, load_artifact
from limelight.runtime.engine import Engine
from limelight.runtime.io_binding import IoBinding
from limelight.runtime.onnx_session import EngineError, cuda_problem
from tests.serving_kit import COLOUR_NETWORK, DIGIT_NETWORK, REPOSITORY, write_artifact

no_gpu = pytest.mark.skipif(cuda_problem() is None, reason="this machine has a usable GPU")


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_outputs_are_those_of_numpy(
    colours: Artifact, rng: np.random.Generator, batch: int
) -> None:
    images = rng.integers(0, 256, (batch, 8, 8, 3), np.uint8)
    results = Engine(colours, device="cpu").run(images, ["logits", "probabilities", "cams"])
    np.testing.assert_allclose(results["logits"], COLOUR_NETWORK.logits(images), atol=1e-5)
    np.testing.assert_allclose(results["cams"], COLOUR_NETWORK.cams(images), atol=1e-5)
    np.testing.assert_allclose(
        results["probabilities"], COLOUR_NETWORK.probabilities(images), atol=1e-6
    )


def test_only_what_is_asked_for_comes_back(digits: Artifact) -> None:
    results = Engine(digits, device="cpu").run(np.zeros((1, 28, 28, 1), np.uint8), ["logits"])
    assert list(results) == ["logits"]
    np.testing.assert_allclose(results["logits"][0], DIGIT_NETWORK.bias, atol=1e-6)


def test_images_of_another_size_or_type_are_a_value_error(colours: Artifact) -> None:
    engine = Engine(colours, device="cpu")
    with pytest.raises(ValueError, match="must be uint8"):
        engine.run(np.zeros((1, 9, 8, 3), np.uint8), ["logits"])
    with pytest.raises(ValueError, match="must be uint8"):
        engine.run(np.zeros((1, 8, 8, 3), np.float32), ["logits"])


def test_an_unknown_output_is_an_engine_error(colours: Artifact) -> None:
    with pytest.raises(EngineError, match="nonsense"):
        Engine(colours, device="cpu").run(np.zeros((1, 8, 8, 3), np.uint8), ["nonsense"])


def test_the_provider_is_what_the_session_says(colours: Artifact) -> None:
    assert Engine(colours, device="cpu").provider == "CPU"


@no_gpu
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_demanded_gpu_that_is_not_there_is_an_error_with_the_reason(
    colours: Artifact, device: str
) -> None:
    with pytest.raises(EngineError, match=f"{device}.*(driver|CUDA|GPU).*LIMELIGHT_DEVICE=auto"):
        Engine(colours, device=device)  # type: ignore[arg-type]


def test_a_silent_fallback_of_the_runtime_is_detected(
    colours: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine with a driver but without CUDA's libraries."""
    monkeypatch.setattr("limelight.runtime.onnx_session.cuda_problem", lambda: None)
    monkeypatch.setattr(
        "limelight.runtime.onnx_session._create",
        lambda path, options, provider: ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        ),
    )
    with pytest.raises(EngineError, match="'cuda' is demanded"):
        Engine(colours, device="cuda")
    assert Engine(colours, device="auto").provider == "CPU"


@pytest.fixture
def in_half(tmp_path: Path) -> Artifact:
    return load_artifact(write_artifact(tmp_path, fp16=True))


def test_half_precision_is_run_where_it_is_demanded(
    in_half: Artifact, rng: np.random.Generator
) -> None:
    images = rng.integers(0, 256, (7, 8, 8, 3), np.uint8)
    exact = Engine(in_half, device="cpu")
    assert (exact.precision, exact.file) == ("float32", "model.onnx")
    fp16 = Engine(in_half, device="cpu", precision="float16")
    assert (fp16.precision, fp16.file) == ("float16", "model.fp16.onnx")
    expected, rounded = (each.run(images, ["features", "probabilities"]) for each in (exact, fp16))
    np.testing.assert_array_equal(
        rounded["features"], expected["features"].astype(np.float16).astype(np.float32)
    )
    np.testing.assert_allclose(rounded["probabilities"], expected["probabilities"], atol=2e-3)
    assert rounded["probabilities"].dtype == np.float32
    # Finer maps have their own graph, which is exact.
    finer = [each.run(images, ["layercams"])["layercams"] for each in (exact, fp16)]
    np.testing.assert_array_equal(finer[0], finer[1])


def test_half_precision_that_an_artefact_lacks_is_an_engine_error(colours: Artifact) -> None:
    with pytest.raises(EngineError, match=r"no float16 graph.*--fp16.*LIMELIGHT_PRECISION=auto"):
        Engine(colours, device="cpu", precision="float16")


def test_a_gpu_is_given_half_precision_by_itself_and_only_a_gpu(
    in_half: Artifact, colours: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session on the CPU stands in for CUDA's."""
    monkeypatch.setattr("limelight.runtime.engine.cuda_problem", lambda: None)
    monkeypatch.setattr("limelight.runtime.onnx_session.cuda_problem", lambda: None)
    monkeypatch.setattr(
        "limelight.runtime.onnx_session._create",
        lambda path, options, provider: ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        ),
    )
    # The driver is there, but the session ends on the CPU.
    assert Engine(in_half).precision == "float32"
    for module in ("limelight.runtime.engine", "limelight.runtime.onnx_session"):
        monkeypatch.setattr(f"{module}.provider_of", lambda session: "CUDA")
    assert Engine(in_half).precision == "float16"
    assert Engine(in_half, device="cuda").file == "model.fp16.onnx"
    assert Engine(in_half, precision="float32").precision == "float32"
    assert Engine(in_half, device="cpu").precision == "float32"
    assert Engine(colours).precision == "float32"  # has no other


@no_gpu
def test_auto_falls_back_and_says_so_once_and_nothing_else(zoo: Path) -> None:
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
    """The pipeline imports these; and nothing of the service may import torch."""
    code = (
        "import sys, limelight.artifact.store, limelight.runtime.engine;"
        "import limelight.imaging.preprocessing;"
        "assert not {'bentoml', 'starlette', 'torch'} & set(sys.modules);"
        "import service.bento;"
        "assert not {'torch', 'onnx', 'pipeline', 'models'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_a_file_that_is_no_graph_is_an_engine_error(tmp_path: Path) -> None:
    artifact = load_artifact(write_artifact(tmp_path))
    artifact.onnx_path.write_bytes(b"not a graph")
    with pytest.raises(EngineError, match="cannot load"):
        Engine(artifact, device="cpu")


def test_a_graph_that_is_not_the_manifests_is_an_engine_error(tmp_path: Path) -> None:
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


def test_a_manifest_that_contradicts_itself_is_an_engine_error(tmp_path: Path) -> None:
    artifact = load_artifact(write_artifact(tmp_path, classes=["red", "green"]))
    with pytest.raises(EngineError, match="contradicts itself"):
        Engine(artifact, device="cpu")


def test_warm_up_finds_outputs_that_are_not_finite(
    colours: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(colours, device="cpu")
    assert engine.warm_up() > 0
    session = engine._session

    class Broken:
        def run(self, *arguments: Any) -> list[np.ndarray]:
            return [value * np.nan for value in session.run(*arguments)]

    monkeypatch.setattr(engine, "_session", Broken())
    with pytest.raises(EngineError, match="not finite"):
        engine.warm_up()


@pytest.mark.parametrize("batch", [0, 1, 2, 3, 5, 8])
def test_lanes_change_the_size_of_the_pass_and_no_answer(
    colours: Artifact, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    plain, bound = Engine(colours, device="cpu"), Engine(colours, device="cpu", io_binding=True)
    bound.warm_up()
    monkeypatch.setattr(bound, "_session", None)  # the runtime's own way is not taken
    for _ in range(2):
        images = rng.integers(0, 256, (batch, 8, 8, 3), np.uint8)
        expected, got = (engine.run(images, ["logits", "cams"]) for engine in (plain, bound))
        for name, values in expected.items():
            assert got[name].shape == values.shape
            np.testing.assert_allclose(got[name], values, rtol=1e-6)


def test_finer_maps_run_in_lanes_of_their_own(tmp_path: Path, rng: np.random.Generator) -> None:
    artifact = load_artifact(write_artifact(tmp_path, finer=True))
    plain, bound = Engine(artifact, device="cpu"), Engine(artifact, device="cpu", io_binding=True)
    bound.warm_up()
    bound._layercam = object()  # the runtime's own way is not taken
    images = rng.integers(0, 256, (11, 8, 8, 3), np.uint8)
    expected, got = (engine.run(images, ["logits", "layercams"]) for engine in (plain, bound))
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fault", ["stale", "broken"])
def test_an_engine_whose_lanes_do_not_agree_does_without_and_says_so(
    colours: Artifact,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    """As they would if what is bound were copied when it is bound, and not when a pass is run."""
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
