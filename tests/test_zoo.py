"""Shipped models: integrity, figures in the README, and predictions of the examples."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from limelight.artifact.signatures import verify_signature
from limelight.artifact.store import Artifact, find_artifacts, load_artifact
from limelight.imaging.decoding import decode
from limelight.imaging.preprocessing import prepare
from limelight.runtime.engine import Engine
from service.settings import Settings
from tests.artefact_bytes import contents

ROOT = Path(__file__).parents[1]
ZOO = Settings().models
MODELS = ("digits", "digits-small", "cifar10", "cifar10-small")


def load(name: str) -> Artifact:
    return load_artifact(find_artifacts(ZOO)[name])


def test_zoo_has_the_shipped_models() -> None:
    assert sorted(find_artifacts(ZOO)) == sorted(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_shipped_model_is_signed_by_the_key_whose_public_half_ships(name: str) -> None:
    """After a change of the zoo: `limelight sign zoo/*/ --key KEY`, see docs/operations.md."""
    assert verify_signature(load(name), ZOO / "limelight.pub").method == "key"


@pytest.mark.parametrize(
    ("name", "least", "most", "work"),
    [
        ("digits", 0.996, 0.003, 8_300_000),
        ("digits-small", 0.995, 0.002, 1_000_000),
        ("cifar10", 0.940, 0.008, 120_000_000),
        ("cifar10-small", 0.935, 0.009, 60_000_000),
    ],
)
def test_shipped_model_reaches_its_accuracy_within_its_cost(
    name: str, least: float, most: float, work: int
) -> None:
    manifest = load(name).manifest
    assert manifest.metrics.images == manifest.data.test_images == 10_000
    assert manifest.metrics.accuracy >= least
    assert manifest.metrics.ece <= most
    assert manifest.network.multiply_accumulates <= work
    # No calibration is better for sure than none for a network that is calibrated already.
    calibration = manifest.calibration
    assert calibration.ece_after < calibration.ece_before or (
        calibration.temperature == calibration.exponent == 1
    )


@pytest.mark.parametrize("name", MODELS)
def test_layercam_outputs_are_in_a_separate_graph(name: str) -> None:
    """ONNX Runtime computes the whole graph, whichever outputs are requested."""
    artifact = load(name)
    assert artifact.layercam_path is not None
    outputs, with_layercams = (
        {output.name for output in onnx.load(path).graph.output}
        for path in (artifact.onnx_path, artifact.layercam_path)
    )
    assert outputs == {"logits", "probabilities", "cams", "features", "ood_score"}
    assert with_layercams == outputs | {"layercams"}


@pytest.mark.parametrize("name", MODELS)
def test_figures_in_the_readme_match_the_manifest(name: str) -> None:
    manifest = load(name).manifest
    readme = (ROOT / "README.md").read_text()
    row = next(line for line in readme.splitlines() if line.startswith(f"| `{name}` ("))
    assert f"| {manifest.metrics.accuracy:.2%} |".replace("%", " %") in row
    assert f"| {manifest.metrics.log_loss:.3f} |" in row
    assert f"| {manifest.metrics.ece:.2%} |".replace("%", " %") in row
    assert f"| {manifest.network.parameters:,} |" in row


@pytest.mark.parametrize(
    ("name", "example", "label"),
    [
        ("digits", "seven.png", "7"),
        ("digits-small", "two.png", "2"),
        ("cifar10", "cat.png", "cat"),
        ("cifar10-small", "cat.png", "cat"),
    ],
)
def test_examples_are_recognised_and_their_maps_sum_to_the_logit(
    name: str, example: str, label: str
) -> None:
    artifact = load(name)
    upload = decode((ROOT / "examples" / example).read_bytes(), max_pixels=1_000_000).image
    pixels, _ = prepare(upload, artifact.manifest.image)
    outputs = Engine(artifact, device="cpu").run(
        np.stack([pixels, np.zeros_like(pixels)]), ["logits", "probabilities", "cams"]
    )
    assert artifact.manifest.classes[int(outputs["probabilities"][0].argmax())] == label
    # mean(cam) + bias = logit, and the bias is the same for every image.
    bias = outputs["logits"] - outputs["cams"].mean((2, 3))
    np.testing.assert_allclose(bias[0], bias[1], atol=1e-4)


def test_no_byte_of_a_shipped_artefact_names_a_folder_of_the_machine_that_exported() -> None:
    for file in ROOT.glob("zoo/*/*/*"):
        for name, content in contents(file):
            for path in (b"site-packages", b"/root/", b"/home/", b"/Users/", str(ROOT).encode()):
                assert path not in content, (name, path)
