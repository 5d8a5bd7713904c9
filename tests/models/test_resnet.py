"""Blocks of the ResNet, and the names of its weights, which must match checkpoints."""

import pytest
import torch
from torch import nn

from models import NetworkOptions, ResNet
from models.layers import ConvLayer, Residual

OPTIONS = NetworkOptions(architecture="resnet", widths=(4, 8, 12, 16))
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def layer_names(prefix: str) -> list[str]:
    return [f"{prefix}.0.weight", *(f"{prefix}.1.{name}" for name in BATCH_NORM)]


def test_weights_have_the_names_of_earlier_checkpoints() -> None:
    plain = [layer_names(f"features.{at}") for at in (0, 1, 4, 7)]
    branches = [
        layer_names(f"features.{at}.branch.{layer}") for at in (3, 6, 8) for layer in (0, 1)
    ]
    expected = {name for names in plain + branches for name in names}
    state = ResNet(3, 10, OPTIONS).state_dict()
    assert state.keys() == expected | {"head.linear.weight", "head.linear.bias"}
    assert state["features.7.0.weight"].shape == (16, 12, 3, 3)
    assert state["head.linear.weight"].shape == (10, 16)


def test_maps_have_a_quarter_of_the_image_resolution() -> None:
    network = ResNet(3, 10, OPTIONS)
    assert network.features(torch.rand(2, 3, 28, 44)).shape == (2, 16, 7, 11)


def test_residual_block_with_a_zero_branch_is_the_identity() -> None:
    branch = ConvLayer(6, 6, OPTIONS)
    assert isinstance(branch[1], nn.BatchNorm2d)
    nn.init.zeros_(branch[1].weight)
    images = torch.rand(2, 6, 5, 5)
    torch.testing.assert_close(Residual(branch)(images), images)


def test_residual_block_adds_its_branch() -> None:
    images = torch.rand(2, 6, 5, 5)
    torch.testing.assert_close(Residual(nn.Identity())(images), 2 * images)


def test_wrong_number_of_widths_is_rejected() -> None:
    with pytest.raises(ValueError, match="4 numbers are needed"):
        ResNet(3, 10, NetworkOptions(architecture="resnet", widths=(8, 16)))
