"""Our ResNets: their blocks, and the names of its weights, which checkpoints are read by."""

import pytest
import torch
from torch import nn

from models import NetworkOptions, ResNet, TwoScaleResNet
from models.layers import ConvLayer, Hypercolumn, Residual
from pipeline.summary import summarise

Architecture = type[ResNet] | type[TwoScaleResNet]
OPTIONS = NetworkOptions(architecture="resnet", widths=(4, 8, 12, 16))
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def layer_names(prefix: str) -> list[str]:
    return [f"{prefix}.0.weight", *(f"{prefix}.1.{name}" for name in BATCH_NORM)]


def test_checkpoints_of_earlier_versions_have_the_same_names() -> None:
    plain = [layer_names(f"features.{at}") for at in (0, 1, 4, 7)]
    branches = [
        layer_names(f"features.{at}.branch.{layer}") for at in (3, 6, 8) for layer in (0, 1)
    ]
    expected = {name for names in plain + branches for name in names}
    state = ResNet(3, 10, OPTIONS).state_dict()
    assert state.keys() == expected | {"head.linear.weight", "head.linear.bias"}
    assert state["features.7.0.weight"].shape == (16, 12, 3, 3)
    assert state["head.linear.weight"].shape == (10, 16)


@pytest.mark.parametrize(("build", "channels"), [(ResNet, 16), (TwoScaleResNet, 12 + 16)])
def test_the_maps_have_a_quarter_of_the_images_resolution(
    build: Architecture, channels: int
) -> None:
    network = build(3, 10, OPTIONS)
    assert network.features(torch.rand(2, 3, 28, 44)).shape == (2, channels, 7, 11)


def test_the_coarse_stage_stands_beside_the_finer_one_each_position_four_times() -> None:
    network = TwoScaleResNet(3, 10, OPTIONS).eval()
    images = torch.rand(2, 3, 28, 44)
    *before, last = network.features
    assert isinstance(last, Hypercolumn)
    finer = nn.Sequential(*before)(images)
    coarse = last.branch(finer)
    assert coarse.shape == (2, 16, 4, 6)
    features = network.features(images)
    torch.testing.assert_close(features[:, :12], finer)
    for row in range(7):
        for column in range(11):
            found = features[:, 12:, row, column]
            torch.testing.assert_close(found, coarse[:, :, row // 2, column // 2])


def test_two_scales_have_more_parameters_for_fewer_multiplications() -> None:
    fine, two = (
        summarise(build(3, 10, NetworkOptions(architecture="")), 3, 32, 32)
        for build in (ResNet, TwoScaleResNet)
    )
    assert sum(row.parameters for row in two) > 2 * sum(row.parameters for row in fine)
    assert sum(row.multiplications for row in two) < 0.9 * sum(row.multiplications for row in fine)


def test_a_residual_block_without_its_branch_is_the_identity() -> None:
    branch = ConvLayer(6, 6, OPTIONS)
    assert isinstance(branch[1], nn.BatchNorm2d)
    nn.init.zeros_(branch[1].weight)
    images = torch.rand(2, 6, 5, 5)
    torch.testing.assert_close(Residual(branch)(images), images)


def test_a_residual_block_adds_its_branch() -> None:
    images = torch.rand(2, 6, 5, 5)
    torch.testing.assert_close(Residual(nn.Identity())(images), 2 * images)


@pytest.mark.parametrize("build", [ResNet, TwoScaleResNet])
def test_a_wrong_number_of_widths_is_refused(build: Architecture) -> None:
    with pytest.raises(ValueError, match="4 numbers are needed"):
        build(3, 10, NetworkOptions(architecture="resnet", widths=(8, 16)))
