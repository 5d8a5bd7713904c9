"""Test-time augmentation: the views, and the average of their predictions."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.calibrator import Calibrator
from models.normalization import Normalisation
from pipeline.evaluation.tta import evaluate_tta, tta_views
from pipeline.training.augmentation.augmenter import Augmenter
from pipeline.training.inference import evaluate
from pipeline.training.recipe import Augmentation
from pipeline.training.resident_images import ResidentImages

CPU = torch.device("cpu")
PLAIN = Normalisation(mean=(0.0,), std=(1.0,))


def _images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 6, 7, 1), dtype=np.uint8)


class Corner(nn.Module):
    """Network with two logits: the upper left pixel, and 0."""

    def forward(self, images: Tensor) -> Tensor:
        corner = images[:, 0, 0, 0]
        return torch.stack([corner, torch.zeros_like(corner)], 1)


@pytest.mark.parametrize(
    ("choice", "count"),
    [
        (Augmentation(), 1),
        (Augmentation(flip="random"), 2),
        (Augmentation(pad=2), 5),
        (Augmentation(flip="alternating", pad=2), 10),
        (Augmentation(cutout=3), 1),
    ],
)
def test_first_view_is_the_images_and_all_views_differ(choice: Augmentation, count: int) -> None:
    views = list(tta_views(_images(), choice))
    np.testing.assert_array_equal(views[0], _images())
    assert len({view.tobytes() for view in views}) == len(views) == count


@pytest.mark.parametrize(("padding", "shift"), [(1, 1), (4, 1), (5, 2)])
def test_views_are_shifted_by_reflection_and_mirrored(padding: int, shift: int) -> None:
    images = _images()
    padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="reflect")
    ends = (0, 2 * shift)
    corners = [padded[:, top : top + 6, left : left + 7] for top in ends for left in ends]
    expected = [view for window in [images, *corners] for view in (window, window[:, :, ::-1])]
    views = list(tta_views(images, Augmentation(flip="random", pad=padding)))
    for view, other in zip(views, expected, strict=True):
        np.testing.assert_array_equal(view, other)


def test_each_view_can_occur_in_training() -> None:
    images, choice = _images()[:1], Augmentation(flip="random", pad=1)
    rng = torch.Generator().manual_seed(0)
    paint = torch.zeros(images.shape[3], dtype=torch.uint8)
    augmenter = Augmenter(ResidentImages(images, CPU), choice, rng, paint=paint)
    drawn = augmenter.draw(torch.zeros(500, dtype=torch.int64), 1, rng).images_nhwc.numpy()
    seen = {crop.tobytes() for crop in drawn}
    assert all(view.tobytes() in seen for view in tta_views(images, choice))


def test_single_view_gives_the_plain_prediction() -> None:
    logs = evaluate_tta(Corner(), _images(), PLAIN, CPU, Augmentation())
    plain = evaluate(Corner(), _images(), PLAIN, CPU)
    torch.testing.assert_close(logs, plain.double().log_softmax(1))


def test_probabilities_are_averaged_after_calibration() -> None:
    # The corner pixel is white, and black in the mirrored view: logits of 1 and 0 against 0.
    images = np.zeros((1, 2, 2, 1), np.uint8)
    images[0, 0, 0] = 255
    choice = Augmentation(flip="random")
    logs = evaluate_tta(Corner(), images, PLAIN, CPU, choice, calibrator=Calibrator(0.5))
    share = (1 / (1 + np.exp(-2)) + 0.5) / 2
    np.testing.assert_allclose(logs.exp(), [[share, 1 - share]], rtol=1e-6)
