"""Normalisations and their order, against torch's own functions."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import ConvLayer
from models.lessons import BnLayer
from models.norm_layers import LessonNorm, group_count, make_norm
from models.options import NetworkOptions, Norm, Order

LESSON = NetworkOptions(architecture="", norm="lesson", order="relu-norm")
EVERY_NORM: list[Norm] = ["batch", "lesson", "group", "layer", "none"]


class TorchLayer(nn.Module):
    """The lesson's layer with torch's own normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x).relu())
        return out


def test_lesson_layer_equals_torch_batch_norm_in_training_and_evaluation() -> None:
    torch.manual_seed(0)
    ours, theirs = BnLayer(3, 4, LESSON).double(), TorchLayer().double()
    nn.init.normal_(ours[2].multiplier)  # type: ignore[arg-type]
    nn.init.normal_(ours[2].adder)  # type: ignore[arg-type]
    for parameter, same in zip(ours.parameters(), theirs.parameters(), strict=True):
        same.data.copy_(parameter.data)
    for _ in range(3):  # the running statistics are an average of several batches
        images = torch.randn(5, 3, 7, 7, dtype=torch.double)
        mine, reference = images.clone().requires_grad_(), images.clone().requires_grad_()
        towards = torch.randn(5, 4, 4, 4, dtype=torch.double)
        torch.testing.assert_close(ours(mine), theirs(reference))
        (ours(mine) * towards).sum().backward()
        (theirs(reference) * towards).sum().backward()
        torch.testing.assert_close(mine.grad, reference.grad)
    for parameter, same in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, same.grad)
    torch.testing.assert_close(ours[2].running_mean, theirs.norm.running_mean)
    torch.testing.assert_close(ours[2].running_variance, theirs.norm.running_var)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


def test_channel_that_is_always_zero_stays_finite() -> None:
    layer = BnLayer(1, 2, LESSON)
    nn.init.constant_(layer[0].weight, -1)  # type: ignore[arg-type]
    outputs = layer(torch.rand(4, 1, 6, 6))
    outputs.square().sum().backward()
    assert outputs.abs().max() == 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_statistics_of_bfloat16_features_are_float32() -> None:
    norm = LessonNorm(1).train()
    # bfloat16 has 8 bits: summing 4,096 ones in it would stop at 256.
    norm(torch.full((4, 1, 32, 32), 3.0, dtype=torch.bfloat16))
    assert float(norm.running_mean) == pytest.approx(0.3)


def test_one_value_per_channel_is_rejected_in_training() -> None:
    """As by `nn.BatchNorm2d`: it has no variance."""
    norm = LessonNorm(4)
    with pytest.raises(ValueError, match="one value per channel"):
        norm.train()(torch.ones(1, 4, 1, 1))
    assert norm.eval()(torch.ones(1, 4, 1, 1)).isfinite().all()


def test_layer_norm_covers_all_features_of_an_image() -> None:
    x = torch.randn(3, 10, 4, 5)
    torch.testing.assert_close(make_norm("layer", 10)(x), F.layer_norm(x, (10, 4, 5)))


def test_group_norm_covers_each_group_of_channels() -> None:
    x = torch.randn(3, 8, 4, 5)
    groups = x.reshape(3, 2, 4, 4, 5)
    expected = F.layer_norm(groups, (4, 4, 5)).reshape(x.shape)
    torch.testing.assert_close(make_norm("group", 8)(x), expected)


def test_groups_divide_the_channels_and_have_at_least_four() -> None:
    for channels in range(1, 300):
        groups = group_count(channels)
        assert channels % groups == 0
        assert 1 <= groups <= 32
        assert groups == 1 or channels // groups >= 4


@pytest.mark.parametrize(("channels", "groups"), [(64, 16), (128, 32), (512, 32), (112, 28)])
def test_number_of_groups_is_the_largest_possible(channels: int, groups: int) -> None:
    assert group_count(channels) == groups


def test_unknown_normalisation_is_rejected() -> None:
    with pytest.raises(ValueError, match="no normalisation 'instance'"):
        make_norm("instance", 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", EVERY_NORM)
@pytest.mark.parametrize(("order", "smallest"), [("norm-relu", 0.0), ("relu-norm", None)])
def test_order_puts_relu_before_or_after_normalisation(
    order: Order, smallest: float | None, norm: Norm
) -> None:
    torch.manual_seed(0)
    options = NetworkOptions(architecture="", norm=norm, order=order)
    outputs = ConvLayer(3, 8, options)(torch.randn(4, 3, 9, 9))
    if norm == "none" or smallest is not None:
        assert outputs.min() == 0
    else:
        assert outputs.min() < 0


@pytest.mark.parametrize("norm", EVERY_NORM)
def test_convolution_has_a_bias_only_without_normalisation(norm: Norm) -> None:
    layer = ConvLayer(3, 8, NetworkOptions(architecture="", norm=norm))
    assert ("0.bias" in layer.state_dict()) == (norm == "none")


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)])
def test_only_the_stride_changes_the_resolution(kernel: int, stride: int) -> None:
    layer = ConvLayer(1, 4, LESSON, kernel=kernel, stride=stride)
    assert layer(torch.rand(2, 1, 13, 8)).shape == (2, 4, -(-13 // stride), 8 // stride)
