"""Comparison of two versions' outputs, against scipy and by hand."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from limelight.artifact.manifest import Manifest
from service.inference.comparison import Comparer, rank_correlation
from tests.serving_kit import COLOURS, write_artifact


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = write_artifact(tmp_path_factory.mktemp("zoo"))
    return Manifest.model_validate(json.loads((folder / "manifest.json").read_text()))


def changed(manifest: Manifest, **fields: object) -> Manifest:
    return manifest.model_copy(update=fields)


@pytest.mark.parametrize("levels", [3, 1000])
def test_rank_correlation_is_that_of_scipy_with_ties_and_without(levels: int) -> None:
    rng = np.random.default_rng(levels)
    for _ in range(20):
        one, other = rng.integers(0, levels, (2, 4, 5)).astype(np.float32)
        expected = spearmanr(one.ravel(), other.ravel()).statistic
        assert rank_correlation(one, other) == pytest.approx(expected, abs=1e-12)


def test_rank_correlation_heeds_order_only_and_is_unknown_for_a_constant_map() -> None:
    ramp = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert rank_correlation(ramp, np.exp(ramp)) == pytest.approx(1.0)
    assert rank_correlation(ramp, -ramp) == pytest.approx(-1.0)
    assert rank_correlation(ramp, np.ones_like(ramp)) is None


def test_images_of_a_batch_are_compared_one_by_one(manifest: Manifest) -> None:
    ramp = np.arange(16, dtype=np.float32).reshape(4, 4)
    cams = np.stack([ramp, -ramp, ramp.T])
    champion = {
        "probabilities": np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]], np.float32),
        "cams": np.stack([cams, cams]),
    }
    challenger = {
        "probabilities": np.array([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]], np.float32),
        "cams": np.stack([cams, -cams]),
    }
    first, second = Comparer(manifest, manifest).compare(champion, challenger)
    assert (first.agrees, second.agrees) == (True, False)
    assert first.difference == pytest.approx((0.3 + 0.2 + 0.1) / 3)
    assert second.difference == pytest.approx((0.4 + 0.4 + 0.0) / 3)
    # The maps are those of the champion's class, also where the challenger has chosen another.
    assert first.correlation == pytest.approx(1.0)
    assert second.correlation == pytest.approx(-1.0)


def test_classes_are_matched_by_name_and_gaps_are_said(manifest: Manifest) -> None:
    other = changed(manifest, classes=(*COLOURS[::-1], "grey"))
    comparer = Comparer(manifest, other)
    assert comparer.gaps == ["probabilities: the classes differ"]
    ramp = np.arange(16, dtype=np.float32).reshape(4, 4)
    champion = {
        "probabilities": np.array([[0.8, 0.1, 0.1]], np.float32),
        "cams": np.stack([ramp, -ramp, -ramp])[None],
    }
    challenger = {
        "probabilities": np.array([[0.1, 0.1, 0.8, 0.0]], np.float32),
        "cams": np.stack([-ramp, -ramp, ramp, -ramp])[None],
    }
    (found,) = comparer.compare(champion, challenger)
    assert found.agrees
    assert found.difference is None
    assert found.correlation == pytest.approx(1.0)
    unknown = Comparer(manifest, changed(manifest, classes=("cyan", "pink", "grey")))
    assert unknown.compare(champion, champion)[0].correlation is None


def test_maps_of_other_shapes_are_not_compared(manifest: Manifest) -> None:
    small = [
        each.model_copy(update={"shape": ("batch", 3, 2, 2)}) if each.name == "cams" else each
        for each in manifest.outputs
    ]
    comparer = Comparer(manifest, changed(manifest, outputs=tuple(small)))
    assert comparer.gaps == ["maps: 4x4 and 2x2 positions"]
    probabilities = np.array([[0.8, 0.1, 0.1]], np.float32)
    (found,) = comparer.compare(
        {"probabilities": probabilities, "cams": np.zeros((1, 3, 4, 4), np.float32)},
        {"probabilities": probabilities, "cams": np.zeros((1, 3, 2, 2), np.float32)},
    )
    assert (found.agrees, found.difference, found.correlation) == (True, 0.0, None)
