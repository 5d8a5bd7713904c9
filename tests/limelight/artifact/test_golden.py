"""Golden samples: what is read is verified, bounded, and never unpickled."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limelight.artifact.golden import GoldenSamples, read_golden
from limelight.artifact.store import ArtifactError, load_artifact
from tests.serving_kit import COLOUR_NETWORK, GOLDEN_IMAGES, rewrite, write_artifact


def archive(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_artifact(tmp_path, golden=True)


def test_samples_are_read_as_they_were_written(folder: Path, tmp_path: Path) -> None:
    samples = read_golden(load_artifact(folder))
    assert samples is not None
    assert samples.images.shape == (GOLDEN_IMAGES, 8, 8, 3)
    samples.write(tmp_path / "again.npz")
    rewrite(folder, "golden.npz", (tmp_path / "again.npz").read_bytes())
    again = read_golden(load_artifact(folder))
    assert again is not None
    np.testing.assert_array_equal(again.images, samples.images)
    np.testing.assert_array_equal(
        again.outputs["cams"], COLOUR_NETWORK.cams(samples.images).astype(np.float32)
    )


def test_an_older_artefact_has_none(tmp_path: Path) -> None:
    assert read_golden(load_artifact(write_artifact(tmp_path))) is None


def test_error_is_the_total_variation_and_the_relative_norm() -> None:
    """Two images: one probability of 0.1 moves to another class, and the maps grow by a tenth."""
    cams = np.ones((2, 2, 3, 3), np.float32)
    golden = GoldenSamples(
        np.zeros((2, 8, 8, 3), np.uint8),
        {"probabilities": np.array([[0.7, 0.3], [0.5, 0.5]], np.float32), "cams": cams},
    )
    found = golden.error_of(
        {"probabilities": np.array([[0.6, 0.4], [0.5, 0.5]], np.float32), "cams": 1.1 * cams}
    )
    assert found.probabilities == pytest.approx(0.05, rel=1e-5)
    assert found.cams == pytest.approx(0.1, rel=1e-5)


FILES = {
    "no archive": (b"nothing", "not a zip file"),
    "an array missing": (archive(images=np.zeros((4, 8, 8, 3), np.uint8)), "probabilities|cams"),
    "another size": (
        archive(
            images=np.zeros((4, 9, 8, 3), np.uint8),
            probabilities=np.zeros((4, 3), np.float32),
            cams=np.zeros((4, 3, 4, 4), np.float32),
        ),
        r"'images' is uint8 \(4, 9, 8, 3\)",
    ),
    "another type": (
        archive(
            images=np.zeros((4, 8, 8, 3), np.uint8),
            probabilities=np.zeros((4, 3), np.float64),
            cams=np.zeros((4, 3, 4, 4), np.float32),
        ),
        "'probabilities' is float64",
    ),
    "pickled objects": (
        archive(images=np.array([{"not": "an array"}], dtype=object), probabilities=0.0, cams=0.0),
        "allow_pickle=False",
    ),
    "a bomb": (archive(images=np.zeros(100_000_000, np.uint8)), "at most 64,000,000 are read"),
}


@pytest.mark.parametrize("kind", FILES)
def test_unusable_samples_are_rejected(folder: Path, kind: str) -> None:
    content, problem = FILES[kind]
    rewrite(folder, "golden.npz", content)
    with pytest.raises(ArtifactError, match=f"(?s)golden.npz.*{problem}.*export the run again"):
        read_golden(load_artifact(folder))
