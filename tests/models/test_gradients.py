"""Derivatives written as a forward pass, compared with autograd."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models import ARCHITECTURES, NetworkOptions, build_network
from models.gradients import NotDifferentiableHereError, layercam_stage, with_pull_back
from models.heads import ClassMapHead, ConvHead, ConvMapHead, Head
from models.layers import Residual
from models.norm_layers import LessonNorm


def by_autograd(function: Callable[[Tensor], Tensor], x: Tensor, by_output: Tensor) -> Tensor:
    """Pull derivatives back by autograd: (N, K, C', h', w') -> (N, K, C, h, w)."""
    x = x.clone().requires_grad_()
    out = function(x)
    pulled = [
        torch.autograd.grad(out, x, by_output[:, k], retain_graph=True)[0]
        for k in range(by_output.shape[1])
    ]
    return torch.stack(pulled, 1)


def randomise_norms(layer: nn.Module) -> nn.Module:
    """Give norms random running statistics."""
    for module in layer.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if "var" in name:
                buffer.uniform_(0.5, 2)
            elif "mean" in name:
                buffer.normal_()
    return layer.eval()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 4, 3, padding=1),
        nn.Conv2d(6, 4, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(6, 4, 5, stride=3, padding=2, groups=2, dilation=2),
        nn.BatchNorm2d(6),
        LessonNorm(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Dropout(),
        Residual(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(inplace=True))),
        nn.Sequential(nn.Conv2d(6, 4, 1), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU()),
    ],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("size", [(8, 8), (9, 12)])
def test_derivatives_of_a_layer_equal_autograd(layer: nn.Module, size: tuple[int, int]) -> None:
    randomise_norms(layer)
    x = torch.randn(3, 6, *size)
    expected = layer(x.clone())
    out, pull_back = with_pull_back(layer, x)
    torch.testing.assert_close(out, expected)
    by_output = torch.randn(3, 5, *out.shape[1:])
    torch.testing.assert_close(
        pull_back(by_output), by_autograd(lambda at: layer(at * 1), x, by_output)
    )


@pytest.mark.parametrize(
    "architecture",
    [*sorted(ARCHITECTURES.keys() - {"simplenet"}), "torchvision:resnet18", "torchvision:resnet50"],
)
def test_derivatives_of_a_network_equal_autograd(architecture: str) -> None:
    network = build_network(NetworkOptions(architecture=architecture), in_channels=3, classes=4)
    randomise_norms(network.double())
    # In float32 the two round differently, sometimes to different sides of a ReLU's zero.
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    early = layercam_stage(network.features, images)
    assert early is not None
    with torch.no_grad():
        stage = network.features[:early](images)
        last, pull_back = with_pull_back(network.features[early:], stage)
        derivatives = network.head.derivatives(last).expand(2, -1, -1, -1, -1)
        found = pull_back(derivatives)
    assert stage.shape[2] > last.shape[2]
    late = network.features[early:]
    one_hot = torch.eye(4, dtype=torch.float64)[None].expand(2, -1, -1)
    wanted = by_autograd(lambda at: network.head(late(at * 1)), stage, one_hot)
    # Where a whole pooling window is zero, autograd counts its first value; the product is zero.
    active = stage[:, None]
    torch.testing.assert_close(found * active, wanted * active, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 4)])
@pytest.mark.parametrize(
    "head", [ClassMapHead(5, 3), ClassMapHead(5, 3, pool="max"), ConvMapHead(5, 3), ConvHead(5, 3)]
)
def test_derivatives_of_a_head_equal_autograd(head: Head, size: tuple[int, int]) -> None:
    features = torch.randn(2, 5, *size)
    one_hot = torch.eye(3)[None].expand(2, -1, -1)
    expected = by_autograd(head.eval(), features, one_hot)
    torch.testing.assert_close(head.derivatives(features).expand_as(expected), expected)


def test_network_of_constant_resolution_has_no_layercam_stage() -> None:
    features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
    assert layercam_stage(features, torch.randn(1, 1, 8, 8)) is None
    simplenet = build_network(
        NetworkOptions(architecture="simplenet"), in_channels=3, classes=2
    ).eval()
    assert layercam_stage(simplenet.features, torch.randn(1, 3, 32, 32)) is None


def test_layercam_stage_is_the_last_before_the_final_resolution() -> None:
    halve = nn.MaxPool2d(2)
    features = nn.Sequential(nn.Identity(), halve, nn.Identity(), nn.Identity(), halve)
    assert layercam_stage(features, torch.randn(1, 1, 8, 8)) == 4


def test_layer_without_a_derivative_is_named() -> None:
    with pytest.raises(NotDifferentiableHereError, match="GroupNorm"):
        with_pull_back(nn.Sequential(nn.GroupNorm(1, 4)), torch.randn(1, 4, 2, 2))
