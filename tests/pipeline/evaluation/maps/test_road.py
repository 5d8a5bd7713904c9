"""ROAD compared with pytorch-grad-cam's, which is the paper's own code."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_grad_cam.metrics.road import NoisyLinearImputer, ROADCombined
from torch import Tensor, nn

from pipeline.evaluation.maps.road import Imputer, road

# The library passes tensors to functions of numpy, which numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CENTRE = np.s_[:, 4:9, 4:9]
Images = NDArray[np.uint8]


def images(count: int, height: int = 12, width: int = 12) -> Images:
    """Noise with a bright square in the middle."""
    noise = np.random.default_rng(0).integers(0, 90, (count, height, width, 3), np.uint8)
    noise[CENTRE] += 160
    return noise


def infer(images_nhwc: Images, outputs: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
    """Predict class 1 with the brightness of the centre as its probability."""
    bright = images_nhwc[CENTRE].mean((1, 2, 3), dtype=np.float64) / 255
    return dict.fromkeys(outputs, np.stack([1 - bright, bright], 1).astype(np.float32))


@pytest.mark.parametrize(("height", "width"), [(12, 12), (9, 17), (1, 30)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_imputed_pixels_equal_pytorch_grad_cams(height: int, width: int, share: float) -> None:
    rng = np.random.default_rng(1)
    image_hwc = rng.integers(0, 256, (height, width, 3), np.uint8)
    removed_hw = rng.permutation(height * width).reshape(height, width) < share * height * width
    expected = NoisyLinearImputer(noise=0)(
        torch.from_numpy(image_hwc).permute(2, 0, 1) / 255,
        torch.from_numpy((~removed_hw).astype(np.float32)),
    )
    ours = Imputer(height, width, rng, noise=0)(image_hwc, removed_hw)
    # Ours are whole levels.
    np.testing.assert_allclose(ours, 255 * expected.permute(1, 2, 0), atol=0.51)
    np.testing.assert_array_equal(ours[~removed_hw], image_hwc[~removed_hw])


def test_noise_has_its_standard_deviation() -> None:
    grey = np.full((60, 60, 3), 128, np.uint8)
    removed_hw = np.ones((60, 60), bool)
    removed_hw[0, 0] = False
    imputed = Imputer(60, 60, np.random.default_rng(2), noise=0.02)(grey, removed_hw)
    assert imputed[removed_hw].std() == pytest.approx(0.02 * 255, rel=0.05)


class _Network(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        levels = (pixels * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return torch.from_numpy(infer(levels.numpy(), ["probabilities"])["probabilities"])


def test_measure_equals_pytorch_grad_cams() -> None:
    shown = images(16)
    maps = [image_hwc.mean(2, dtype=np.float32) for image_hwc in shown]
    ranks = [map_hw.ravel().argsort(kind="stable").argsort() for map_hw in maps]
    ranked = np.stack(ranks).reshape(16, 12, 12).astype(np.float32)
    torch.manual_seed(0)
    targets = [lambda probabilities: probabilities[1]] * 16
    theirs = ROADCombined([20, 40, 60, 80])(
        torch.from_numpy(shown).permute(0, 3, 1, 2) / 255, ranked, targets, _Network()
    )
    ours = road(infer, shown, np.ones(16, np.int64), maps)
    assert ours is not None
    # The noise differs.
    assert ours == pytest.approx(float(np.mean(theirs)), abs=0.002)
    assert ours > 0.1
