"""int8 graph of an export: its layers, its gate, and what it says of itself."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from limelight.artifact.golden import read_golden
from limelight.artifact.measurements import Int8, Metrics
from limelight.artifact.store import Artifact, load_artifact
from limelight.runtime.engine import Engine
from pipeline.errors import GateError
from pipeline.exporting import int8
from pipeline.exporting.export import export
from pipeline.exporting.int8 import _float_layers, check_int8, correlation
from pipeline.runs.run import Run

PLAIN = Metrics(images=1000, accuracy=0.95, log_loss=0.2, ece=0.01)
GOOD = Int8(
    calibration_images=512,
    percentile=99.99,
    float_layers=("first", "head"),
    images=1000,
    accuracy=0.9495,
    ece=0.0105,
    equal_winners=0.996,
    map_correlation=0.99,
    probability_error=0.005,
)


@pytest.fixture(scope="module")
def artifact(digits8_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A network that was trained for seconds may not pass the gate, which has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "MOST_ACCURACY_LOST", 0.05)
        patch.setattr(int8, "MOST_CALIBRATION_ERROR_ADDED", 0.05)
        patch.setattr(int8, "FEWEST_EQUAL_WINNERS", 0.9)
        folder = export(digits8_run, tmp_path_factory.mktemp("int8"), int8=True, layercam=False)
    return load_artifact(folder)


def test_convolutions_between_the_first_and_the_head_have_weights_of_7_bits(
    artifact: Artifact,
) -> None:
    assert artifact.manifest.int8_file is not None
    model = onnx.load(artifact.folder / artifact.manifest.int8_file)
    weights = [
        numpy_helper.to_array(each)
        for each in model.graph.initializer
        if each.data_type == onnx.TensorProto.INT8 and len(each.dims) == 4
    ]
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert artifact.manifest.int8 is not None
    assert len(weights) == len(convolutions) - len(artifact.manifest.int8.float_layers)
    assert len(weights) >= 3
    # Two 8-bit activations times two of these weights fit 16 bits: 2 * 255 * 64 < 32,768.
    assert all(np.abs(each.astype(int)).max() <= 64 for each in weights)


def test_manifest_card_and_golden_samples_describe_the_graph(artifact: Artifact) -> None:
    manifest, golden = artifact.manifest, read_golden(artifact)
    assert manifest.int8 is not None
    assert manifest.golden is not None
    assert golden is not None
    assert manifest.int8.images == manifest.metrics.images
    assert manifest.int8.equal_winners > 0.95
    assert manifest.int8.map_correlation > 0.98
    outputs = Engine(artifact, device="cpu", precision="int8").run(
        golden.images, ["probabilities", "cams"]
    )
    found, said = golden.error_of(outputs), manifest.golden.errors["model.int8.onnx"]
    # Processors may round the last bit otherwise.
    assert found.probabilities == pytest.approx(said.probabilities, abs=2e-3)
    assert said.probabilities > 1e-6
    assert manifest.golden.errors["model.onnx"].probabilities == 0
    card = (artifact.folder / "README.md").read_text()
    assert "## int8 graph" in card
    assert f"{manifest.int8.equal_winners:.2%}" in card


def test_mean_of_an_int8_map_and_the_bias_are_the_logit(artifact: Artifact) -> None:
    """The head stays in float32, so that the maps are as exact as those of float32."""
    golden = read_golden(artifact)
    assert golden is not None
    outputs = Engine(artifact, device="cpu", precision="int8").run(
        golden.images, ["logits", "cams"]
    )
    bias = outputs["logits"] - outputs["cams"].mean((2, 3))
    np.testing.assert_allclose(bias, bias[:1].repeat(len(bias), 0), atol=1e-4)


def test_golden_samples_have_every_class(artifact: Artifact) -> None:
    golden = read_golden(artifact)
    assert golden is not None
    assert set(golden.outputs["probabilities"].argmax(1).tolist()) == set(range(10))


def test_export_without_int8_has_golden_samples_only(artifact_folder: Path) -> None:
    manifest = load_artifact(artifact_folder).manifest
    assert manifest.golden is not None
    assert manifest.int8 is None
    assert manifest.int8_file is None


def test_gate_takes_what_is_within_its_bounds() -> None:
    check_int8(GOOD, PLAIN)
    check_int8(GOOD.model_copy(update={"accuracy": 0.96, "ece": 0.0}), PLAIN)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"accuracy": 0.948}, "accuracy falls by 0.20%, and at most 0.10% is allowed"),
        ({"ece": 0.012}, "calibration error rises by 0.20%, and at most 0.10%"),
        ({"equal_winners": 0.994}, "equal predictions: 99.40%, and at least 99.50%"),
        ({"map_correlation": 0.97}, "correlation of the maps: 97.00%, and at least 98.00%"),
    ],
)
def test_gate_rejects_a_graph_that_is_too_far_from_float32(
    change: dict[str, float], problem: str
) -> None:
    with pytest.raises(GateError, match=f"{problem}.*without --int8"):
        check_int8(GOOD.model_copy(update=change), PLAIN)


def test_correlation_is_that_of_numpy(rng: np.random.Generator) -> None:
    one, other = rng.normal(size=(2, 5, 3, 4)).astype(np.float32)
    found = correlation(one, other)
    for index in range(5):
        wanted = np.corrcoef(one[index].ravel(), other[index].ravel())[0, 1]
        assert found[index] == pytest.approx(wanted)
    flat = np.ones((1, 3, 4), np.float32)
    assert correlation(flat, flat) == [1.0]
    assert correlation(flat, one[:1]) == [0.0]


def test_convolutions_of_the_head_stay_in_float32() -> None:
    """They read the features, which are an output: maps and logits then agree."""
    names = ("images", "first"), ("first", "features"), ("features", "mean"), ("mean", "more")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", [before, "weight"], [after], name=after)
            for before, after in names
        ],
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, None)],
    )
    assert _float_layers(helper.make_model(graph)) == ("first", "features", "mean")


def test_first_convolution_and_the_maps_stay_in_float32(artifact_folder: Path) -> None:
    model = onnx.load(artifact_folder / "model.onnx")
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    maps = next(node for node in convolutions if "cams" in node.output)
    assert _float_layers(model) == (convolutions[0].name, maps.name)
