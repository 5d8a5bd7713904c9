"""Whitened first layer, compared with the covariance by numpy."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from models.whitening import WhitenedConv


def correlated_images() -> torch.Tensor:
    """Smooth noise, with channels that share most of it: (64, 3, 12, 12)."""
    torch.manual_seed(0)
    noise = torch.randn(64, 3, 16, 16)
    smooth = nn.functional.avg_pool2d(noise, 5, stride=1) * 3
    return smooth + 0.8 * smooth.mean(1, keepdim=True) + 0.1 * torch.randn(64, 3, 12, 12) + 0.5


def outputs(layer: WhitenedConv, images: torch.Tensor) -> NDArray[np.float64]:
    """Filtered patches that lie inside the images: (patches, out)."""
    filtered = layer(images)[:, :, 1:-1, 1:-1].detach().double()
    values: NDArray[np.float64] = filtered.movedim(1, -1).flatten(0, -2).numpy()
    return values


def test_outputs_are_uncorrelated_with_unit_variance() -> None:
    images = correlated_images()
    layer = WhitenedConv(3, 40)
    layer.measure(images, epsilon=0.0)
    covariance = np.cov(outputs(layer, images)[:, :20], rowvar=False, bias=True)
    np.testing.assert_allclose(covariance, np.eye(20), atol=2e-3)


def test_second_half_of_the_outputs_negates_the_first() -> None:
    images = correlated_images()
    layer = WhitenedConv(3, 40)
    layer.measure(images)
    values = outputs(layer, images)
    np.testing.assert_allclose(values[:, 20:], -values[:, :20], atol=1e-5)


def test_directions_of_largest_variance_are_kept() -> None:
    images = correlated_images()
    layer = WhitenedConv(3, 8)
    layer.measure(images, epsilon=0.0)
    patches = np.lib.stride_tricks.sliding_window_view(images.numpy(), (3, 3), axis=(2, 3))
    rows = patches.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 27)
    variances, directions = np.linalg.eigh(np.cov(rows, rowvar=False))
    kernels = layer.weight[:4].reshape(4, 27).numpy()
    kernels /= np.linalg.norm(kernels, axis=1, keepdims=True)
    leading = directions[:, ::-1][:, :4]
    np.testing.assert_allclose(np.abs(kernels @ leading), np.eye(4), atol=0.02)
    assert variances[-4] > variances[-5]


def test_direction_without_variance_stays_finite() -> None:
    grey = torch.randn(16, 1, 8, 8).expand(16, 3, 8, 8)
    layer = WhitenedConv(3, 54)
    layer.measure(grey)
    assert layer.weight.isfinite().all()
    assert outputs(layer, grey).std(0).max() < 1.1


def test_only_the_bias_is_a_parameter() -> None:
    layer = WhitenedConv(3, 8)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert set(layer.state_dict()) == {"bias", "weight"}


def test_resolution_is_unchanged() -> None:
    assert WhitenedConv(1, 4)(torch.rand(2, 1, 13, 8)).shape == (2, 4, 13, 8)


@pytest.mark.parametrize("width", [7, 56])
def test_width_larger_than_the_patch_allows_is_rejected(width: int) -> None:
    with pytest.raises(ValueError, match=rf"even and at most 54, not {width}"):
        WhitenedConv(3, width)
