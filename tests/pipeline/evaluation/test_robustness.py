"""Robustness: which images are corrupted, how often, and what is measured on them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from limelight.imaging.image_rule import ImageRule
from pipeline.data.registry import digit_rule, photo_rule
from pipeline.data.served_images import as_served
from pipeline.data.splits import Split, stratified_sample
from pipeline.evaluation.common_corruptions.registry import CORRUPTIONS
from pipeline.evaluation.robustness import (
    FEWEST,
    images_to_corrupt,
    measure_robustness,
)

CLASSES = 5
SIDE = 16
Images = NDArray[np.uint8]


class Brightness:
    """Network that predicts the class by the mean level, and keeps the images that it saw."""

    def __init__(self) -> None:
        self.seen: list[Images] = []

    def __call__(self, images: Images, outputs: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        assert list(outputs) == ["probabilities"]
        self.seen.append(images)
        nearest = np.rint(images.mean((1, 2, 3)) / 40 - 1).clip(0, CLASSES - 1).astype(int)
        return {"probabilities": np.eye(CLASSES, dtype=np.float32)[nearest]}

    @property
    def count(self) -> int:
        return sum(map(len, self.seen))


def plain_images(labels: NDArray[np.int64], channels: int = 3) -> Split:
    """Images whose mean level tells their class, with a chequered pattern."""
    pattern = 15 * (np.indices((SIDE, SIDE)).sum(0) // 4 % 2 * 2 - 1)
    images = (40 * (labels[:, None, None] + 1) + pattern).astype(np.uint8)
    return Split(np.repeat(images[..., None], channels, 3), labels)


LABELS = np.repeat(np.arange(CLASSES), (100, 60, 20, 10, 10))


def test_sample_has_the_share_of_each_class() -> None:
    chosen = stratified_sample(LABELS, 40)
    assert len(set(chosen.tolist())) == 40
    assert np.bincount(LABELS[chosen]).tolist() == [20, 12, 4, 2, 2]
    np.testing.assert_array_equal(stratified_sample(LABELS, 40), chosen)
    # All of them, each once, if there are fewer.
    assert sorted(stratified_sample(LABELS, 1000).tolist()) == list(range(len(LABELS)))


@pytest.mark.parametrize(("millions", "images"), [(1, 1000), (8, 1000), (1800, 66), (9000, FEWEST)])
def test_expensive_networks_see_fewer_corrupted_images(
    millions: int, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.evaluation.robustness.CORRUPTED", 1000)
    assert images_to_corrupt(millions * 10**6) == images


@pytest.mark.parametrize("severities", [1, 2, 5])
def test_each_image_has_each_corruption_at_so_many_severities(severities: int) -> None:
    infer = Brightness()
    measure_robustness(
        infer, plain_images(LABELS), photo_rule(SIDE), images=40, severities=severities
    )
    # Besides, each is shown unchanged and as two JPEG files.
    assert infer.count == 40 * (len(CORRUPTIONS) * severities + 3)


def test_figures_tell_what_the_network_cannot_bear() -> None:
    split = plain_images(LABELS)
    found = measure_robustness(Brightness(), split, photo_rule(SIDE), images=200, severities=5)
    assert found.images == 200
    assert found.parameters == "CIFAR-10-C"
    assert found.clean_accuracy == found.jpeg_75 == found.jpeg_50 == 1
    # The mean level tells the class: what moves pixels is harmless, and what brightens is not.
    for harmless in ("gaussian_noise", "glass_blur", "zoom_blur", "contrast", "pixelate"):
        assert found.corruptions[harmless] > 0.97
    assert found.corruptions["brightness"] < 0.7
    assert found.by_severity[0] > found.by_severity[4] + 0.1
    assert found.mean_accuracy == pytest.approx(np.mean(list(found.corruptions.values())))
    assert found.mean_accuracy == pytest.approx(np.mean(found.by_severity))
    assert 0 < found.standard_error < 0.05


def test_one_severity_of_each_image_estimates_the_mean_over_all() -> None:
    split = plain_images(LABELS)
    one, all_five = (
        measure_robustness(Brightness(), split, photo_rule(SIDE), images=200, severities=count)
        for count in (1, 5)
    )
    assert one.mean_accuracy == pytest.approx(all_five.mean_accuracy, abs=0.02)
    for name in CORRUPTIONS:
        assert one.corruptions[name] == pytest.approx(all_five.corruptions[name], abs=0.12)
    again = measure_robustness(Brightness(), split, photo_rule(SIDE), images=200)
    assert again == one


def test_single_image_is_measured() -> None:
    found = measure_robustness(
        Brightness(), plain_images(np.array([2])), photo_rule(SIDE), images=10
    )
    assert found.images == 1
    assert found.standard_error == 0
    assert all(0 <= accuracy <= 1 for accuracy in found.by_severity)


def test_corrupted_images_go_through_the_image_rule_like_uploads() -> None:
    rule: ImageRule = digit_rule(SIDE)
    assert rule.invert == "light-border"
    infer = Brightness()
    measure_robustness(infer, plain_images(np.full(10, 4), channels=1), rule, images=10)
    for images in infer.seen:
        np.testing.assert_array_equal(as_served(images, rule), images)
    assert np.concatenate(infer.seen).mean() < 127
