"""Properties of every network in the registry."""

import sys

import pytest
import torch
from torch import Tensor, nn

from models import ARCHITECTURES, ClassMapNetwork, NetworkOptions, build_network
from models.options import Norm

OWN = sorted(ARCHITECTURES)
ALL = [*OWN, "torchvision:resnet18"]
BUILDS = [(name, channels) for name in OWN for channels in (1, 3)] + [("torchvision:resnet18", 3)]


def build(name: str, *, in_channels: int = 3, classes: int = 7) -> ClassMapNetwork:
    torch.manual_seed(0)
    options = NetworkOptions(architecture=name)
    return build_network(options, in_channels=in_channels, classes=classes)


def images(count: int, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "channels"), BUILDS)
def test_every_architecture_gives_logits_and_maps_for_every_class(name: str, channels: int) -> None:
    network = build(name, in_channels=channels).eval()
    features = network.features(images(2, channels))
    assert network(images(2, channels)).shape == (2, 7)
    maps = network.head.class_activation_maps(features)
    assert maps.shape == (2, 7, *features.shape[2:])


@pytest.mark.parametrize(("name", "channels"), BUILDS)
def test_mean_of_a_map_plus_bias_is_the_logit(name: str, channels: int) -> None:
    network = build(name, in_channels=channels).eval()
    assert network.head.exact
    assert network.head.bias.abs().min() > 0
    with torch.inference_mode():
        features = network.features(images(3, channels))
        maps = network.head.class_activation_maps(features)
        torch.testing.assert_close(
            maps.mean((2, 3)) + network.head.bias, network(images(3, channels))
        )


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_has_a_gradient(name: str) -> None:
    network = build(name).train()
    loss = nn.functional.cross_entropy(network(images(8)), torch.arange(8) % 7)
    loss.backward()  # type: ignore[no-untyped-call]
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert 0 < parameter.grad.abs().sum() < float("inf"), parameter_name


@pytest.mark.parametrize("name", ALL)
def test_logits_do_not_depend_on_the_other_images_of_a_batch(name: str) -> None:
    network = build(name).eval()
    with torch.inference_mode():
        together = network(images(4))
        alone = torch.cat([network(image[None]) for image in images(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_layer_groups_hold_every_parameter_once_and_in_order(name: str) -> None:
    network = build(name)
    early, late, head = network.layer_groups()
    grouped = [parameter for group in (early, late, head) for parameter in group.parameters()]
    assert [id(parameter) for parameter in grouped] == [id(p) for p in network.parameters()]
    assert head is network.head
    assert list(late.parameters())
    assert name == "simplenet" or list(early.parameters())


@pytest.mark.parametrize("norm", ["batch", "lesson", "group", "layer"])
@pytest.mark.parametrize("name", OWN)
def test_every_architecture_uses_the_chosen_normalisation(name: str, norm: Norm) -> None:
    def norms(norm: Norm) -> set[str]:
        network = build_network(
            NetworkOptions(architecture=name, norm=norm), in_channels=3, classes=7
        )
        kinds = {type(module).__name__ for module in network.modules()}
        return {kind for kind in kinds if kind.endswith(("Norm", "Norm2d"))}

    expected = {"batch": "BatchNorm2d", "lesson": "LessonNorm"}.get(norm, "GroupNorm")
    assert norms(norm) == {expected}
    assert norms("none") == set()


def test_unknown_architecture_is_rejected_with_the_known_names() -> None:
    with pytest.raises(ValueError, match=r"no architecture 'vgg'; there are: resnet, .*resnet2"):
        build("vgg")


def test_missing_timm_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"needs timm, .*pip install 'limelight\[timm\]'"):
        build("timm:resnet18")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (NetworkOptions(architecture="resnet2", pretrained=True), "resnet2 takes no pretrained"),
        (NetworkOptions(architecture="convnet", whiten=True), "convnet takes no whiten"),
        (NetworkOptions(architecture="convnet", weights="a file"), "convnet takes no weights"),
        (NetworkOptions(architecture="simple-cnn", pool="max"), "simple-cnn takes no pool"),
        (NetworkOptions(architecture="three-or-seven", dropout=0.1), "three-or-seven takes no dro"),
        (
            NetworkOptions(architecture="torchvision:resnet18", norm="group"),
            "torchvision:resnet18 takes no norm",
        ),
    ],
)
def test_option_without_an_effect_is_rejected(options: NetworkOptions, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_network(options, in_channels=3, classes=10)
