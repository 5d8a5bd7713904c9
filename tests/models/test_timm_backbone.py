"""Networks of timm with a head that has maps."""

from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from models import ClassMapNetwork, NetworkOptions, build_network

timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'limelight[timm]'")

# Plain BatchNorm; BatchNorm with an activation inside, and layers behind the pooling; LayerNorm.
NAMES = ["test_resnet", "mobilenetv3_small_050", "test_convnext"]


def build(name: str, *, in_channels: int = 3, **options: object) -> ClassMapNetwork:
    torch.manual_seed(0)
    chosen = NetworkOptions(architecture=f"timm:{name}", **options)  # type: ignore[arg-type]
    return build_network(chosen, in_channels=in_channels, classes=5)


def images(count: int = 3, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, 64, 64, generator=torch.Generator().manual_seed(1))


def settled(name: str) -> ClassMapNetwork:
    """A network whose BatchNorm statistics are not those that it began with."""
    network = build(name).train()
    with torch.no_grad():
        for _ in range(3):
            network(images(8))
    return network.eval()


@pytest.mark.parametrize("name", NAMES)
def test_mean_of_a_map_plus_bias_is_the_logit(name: str) -> None:
    network = settled(name)
    with torch.inference_mode():
        features = network.features(images())
        maps = network.head.class_activation_maps(features)
        assert maps.shape == (3, 5, *features.shape[2:])
        assert maps.shape[2:] == (2, 2)
        logits = network(images())
        torch.testing.assert_close(maps.mean((2, 3)) + network.head.bias, logits)
    assert network.head.exact


@pytest.mark.parametrize("name", NAMES)
def test_features_are_those_of_timm(name: str) -> None:
    network = settled(name)
    reference = timm.create_model(name, pretrained=False, num_classes=0, global_pool="").eval()
    state = network.state_dict()
    own = {published: state[named] for published, named in network.published_names.items()}
    missing, unexpected = reference.load_state_dict(own, strict=False)
    assert not unexpected
    with torch.inference_mode():
        torch.testing.assert_close(network.features(images()), reference.forward_features(images()))
    # What is behind the features in timm has no place here.
    heads = ("conv_head", "norm_head", "classifier", "head", "fc")
    assert all(each.startswith(heads) for each in missing)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_gradient_and_a_layer_group(name: str) -> None:
    network = build(name).train()
    nn.functional.cross_entropy(network(images(8)), torch.arange(8) % 5).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in network.parameters())
    early, late, head = network.layer_groups()
    grouped = [parameter for group in (early, late, head) for parameter in group.parameters()]
    assert [id(parameter) for parameter in grouped] == [id(p) for p in network.parameters()]
    assert list(early.parameters())
    assert list(late.parameters())
    assert head is network.head


@pytest.mark.parametrize("name", NAMES)
def test_layout_of_the_memory_changes_nothing(name: str) -> None:
    network = settled(name)
    with torch.inference_mode():
        plain = network(images())
        network.to(memory_format=torch.channels_last)
        last = network(images().contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(plain, last, rtol=1e-4, atol=1e-5)


def test_grey_images_are_accepted() -> None:
    assert build("test_resnet", in_channels=1)(images(2, channels=1)).shape == (2, 5)


def test_random_numbers_decide_the_weights_alone() -> None:
    first, second = build("test_resnet"), build("test_resnet")
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224", "coat_tiny"])
def test_network_without_a_map_of_features_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"timm:{name} gives no map .*: choose a convolutional"):
        build(name)


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18", "resnet18.a1_in1k", "resnet19", ""])
def test_name_that_timm_does_not_list_is_refused_without_a_download(name: str) -> None:
    with (
        mock.patch.object(timm, "create_model", side_effect=AssertionError("was called")),
        pytest.raises(ValueError, match=rf"no architecture timm:{name}; timm has, for example: "),
    ):
        build(name)


def test_options_that_it_would_ignore_are_refused() -> None:
    with pytest.raises(ValueError, match="takes no pretrained: give a file of weights instead"):
        build("test_resnet", pretrained=True)
    with pytest.raises(ValueError, match="timm:test_resnet takes no pool"):
        build("test_resnet", pool="max")
    assert build("test_resnet", weights="a file that is not here")(images()).shape == (3, 5)
