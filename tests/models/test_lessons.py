"""Networks of the lessons, compared with their published figures and with plain torch.nn."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import ClassMapNetwork, NetworkOptions, build_network
from models.options import Norm, Order, Pool


def lesson(
    name: str,
    *,
    norm: Norm = "none",
    order: Order = "relu-norm",
    pool: Pool = "average",
    in_channels: int = 3,
    classes: int = 10,
) -> ClassMapNetwork:
    torch.manual_seed(0)
    options = NetworkOptions(architecture=name, norm=norm, order=order, pool=pool)
    return build_network(options, in_channels=in_channels, classes=classes).eval()


def parameters_by_layer(network: nn.Module) -> list[int]:
    leaves = [module for module in network.modules() if not list(module.children())]
    counts = [sum(p.numel() for p in leaf.parameters()) for leaf in leaves]
    return [count for count in counts if count]


def convolutions(network: nn.Module) -> Iterator[nn.Conv2d]:
    return (module for module in network.modules() if isinstance(module, nn.Conv2d))


def test_three_or_seven_has_as_many_parameters_as_in_the_chapter() -> None:
    network = lesson("three-or-seven", in_channels=1, classes=2)
    assert parameters_by_layer(network) == [40, 296, 1168, 4640, 578]


def test_three_or_seven_halves_28_pixels_to_a_single_position() -> None:
    network = lesson("three-or-seven", in_channels=1, classes=2)
    images, sizes = torch.rand(2, 1, 28, 28), []
    for layer in network.features:
        images = layer(images)
        sizes.append(images.shape[2])
    assert sizes == [14, 7, 4, 2]
    assert torch.equal(network.head(images), network.head.conv(images)[:, :, 0, 0])  # type: ignore[operator]


def test_simple_cnn_begins_with_a_5x5_kernel() -> None:
    network = lesson("simple-cnn", in_channels=1)
    assert [conv.kernel_size for conv in convolutions(network)] == [(5, 5)] + [(3, 3)] * 4
    assert parameters_by_layer(network)[0] == 8 * 25 + 8


def test_logits_are_not_normalised() -> None:
    network = lesson("simple-cnn", norm="batch", in_channels=1)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [norm.num_features for norm in norms] == [8, 16, 32, 64]
    assert [conv.bias is None for conv in convolutions(network)] == [True] * 4 + [False]


def test_simplenet_equals_a_perceptron_of_two_linear_layers() -> None:
    network = lesson("simplenet")
    assert parameters_by_layer(network) == [3072 * 40 + 40, 40 * 10 + 10]
    images = torch.rand(4, 3, 32, 32)
    hidden, out = (list(module.parameters()) for module in (network.features, network.head))
    first = F.linear(images.flatten(1), hidden[0].flatten(1), hidden[1]).relu()
    torch.testing.assert_close(network(images), F.linear(first, *out))


def test_convnet_equals_three_strided_convolutions_and_max_pooling() -> None:
    network = lesson("convnet", pool="max")
    assert parameters_by_layer(network) == [560, 7240, 28880, 810]
    images = torch.rand(4, 3, 32, 32)
    x = images
    for conv in convolutions(network):
        x = F.conv2d(x, conv.weight, conv.bias, stride=2).relu()
    pooled = F.adaptive_max_pool2d(x, 1).flatten(1)
    torch.testing.assert_close(network(images), F.linear(pooled, *network.head.parameters()))


STEMS = {"resnet2": (7, 1), "conv-bn-net": (5, 2), "conv-bn-net-deep": (5, 2), "resnet-max": (5, 2)}


@pytest.mark.parametrize(
    ("name", "strides", "residual"),
    [
        ("conv-bn-net", (2,), False),
        ("conv-bn-net-deep", (2, 1), False),
        ("resnet-max", (2, 1, 1), True),
        ("resnet2", (2, 1, 1), True),
    ],
)
def test_ladder_networks_equal_those_of_the_lesson(
    name: str, strides: tuple[int, ...], residual: bool
) -> None:
    network = lesson(name, norm="batch", pool="max").train()
    kernel, padding = STEMS[name]
    stem, *layers = convolutions(network)
    images = torch.rand(4, 3, 32, 32)

    def layer(x: Tensor, conv: nn.Conv2d, stride: int) -> Tensor:
        x = F.conv2d(x, conv.weight, stride=stride, padding=1).relu()
        return F.batch_norm(x, None, None, training=True)

    if name == "resnet2":
        x = layer(images, stem, 1)
    else:
        x = F.conv2d(images, stem.weight, stem.bias, padding=padding)
    assert stem.kernel_size == (kernel, kernel)
    for at, conv in enumerate(layers):
        stride = strides[at % len(strides)]
        out = layer(x, conv, stride)
        x = x + out if residual and stride == 1 else out
    pooled = F.adaptive_max_pool2d(x, 1).flatten(1)
    expected = F.linear(pooled, *network.head.parameters())
    assert len(layers) == 4 * len(strides)
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("conv-bn-net", [10, 20, 40, 80, 160]),
        ("resnet-max", [10, 20, 40, 80, 160]),
        ("resnet2", [16, 32, 64, 128, 256]),
    ],
)
def test_default_widths_are_those_of_the_lesson(name: str, widths: list[int]) -> None:
    channels = [conv.out_channels for conv in convolutions(lesson(name))]
    assert sorted(set(channels)) == widths


def test_number_of_widths_is_the_number_of_layers() -> None:
    options = NetworkOptions(architecture="convnet", widths=(6, 9))
    network = build_network(options, in_channels=3, classes=10)
    assert [conv.out_channels for conv in convolutions(network)] == [6, 9]
