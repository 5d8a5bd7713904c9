"""The networks: their shapes, their identity, and the whole registry."""

import numpy as np
import pytest
import torch

from models import ARCHITECTURES, ResNet
from models.resnet import Residual

WIDTHS = (4, 8, 12, 16)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_gives_logits_and_maps_for_every_class(name: str) -> None:
    network = ARCHITECTURES[name](3, 7, WIDTHS).eval()
    features = network.features(torch.rand(2, 3, 32, 32))
    assert network.head(features).shape == (2, 7)
    assert network.head.class_activation_maps(features).shape == (2, 7, 8, 8)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_the_mean_of_a_map_and_the_bias_are_the_logit(name: str) -> None:
    torch.manual_seed(0)
    network = ARCHITECTURES[name](1, 5, WIDTHS).eval()
    images = torch.randn(3, 1, 28, 28)
    with torch.inference_mode():
        maps = network.head.class_activation_maps(network.features(images))
        logits = network(images)
        expected = maps.mean((2, 3)) + network.head.linear.bias
    np.testing.assert_allclose(expected, logits, rtol=1e-4, atol=1e-5)


def test_a_map_answers_only_to_its_own_position() -> None:
    head = ResNet(3, 4, WIDTHS).head
    features = torch.rand(1, WIDTHS[-1], 8, 8)
    changed = features.clone()
    changed[0, :, 2, 5] += 1
    difference = head.class_activation_maps(changed) - head.class_activation_maps(features)
    positions = difference.abs().amax((0, 1)).nonzero().tolist()
    assert positions == [[2, 5]]


def test_a_residual_block_without_its_branch_is_the_identity() -> None:
    block = Residual(6).eval()
    torch.nn.init.zeros_(block.branch[1][1].weight)  # type: ignore[index]
    images = torch.rand(2, 6, 5, 5)
    torch.testing.assert_close(block(images), images)


def test_a_wrong_number_of_widths_is_refused() -> None:
    with pytest.raises(ValueError, match="4 numbers are needed"):
        ResNet(3, 10, (8, 16))
