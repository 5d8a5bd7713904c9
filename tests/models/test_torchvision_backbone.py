"""ResNets of torchvision with a head that has maps, with and without published weights."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor

from models import ClassMapNetwork, NetworkOptions, WeightsUnavailable, build_network


def build(name: str, *, in_channels: int = 3, pretrained: bool = False) -> ClassMapNetwork:
    options = NetworkOptions(architecture=f"torchvision:{name}", pretrained=pretrained)
    return build_network(options, in_channels=in_channels, classes=5).eval()


@pytest.fixture
def weights_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path in torch hub's cache of the weights of resnet18; downloads fail."""

    def unreachable(url: str, *arguments: object, **options: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    file = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    return file


def test_pretrained_features_equal_those_of_torchvision(weights_file: Path) -> None:
    reference = torchvision.models.resnet18().eval()
    torch.save(reference.state_dict(), weights_file)
    pooled: list[Tensor] = []
    reference.avgpool.register_forward_hook(lambda module, inputs, out: pooled.append(inputs[0]))
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        reference(images)
        torch.testing.assert_close(build("resnet18", pretrained=True).features(images), pooled[0])


def test_without_internet_the_error_names_the_file_and_its_place(weights_file: Path) -> None:
    with pytest.raises(WeightsUnavailable) as raised:
        build("resnet18", pretrained=True)
    message = str(raised.value)
    assert "no route to host" in message
    assert str(weights_file) in message
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in message
    assert "without `pretrained`" in message


def test_corrupt_weights_file_is_rejected(weights_file: Path) -> None:
    weights_file.write_bytes(b"not weights")
    with pytest.raises(WeightsUnavailable, match="put the whole file"):
        build("resnet18", pretrained=True)


def test_pickle_that_would_run_code_is_rejected(weights_file: Path) -> None:
    torch.save({"layer": Path("/")}, weights_file)
    with pytest.raises(WeightsUnavailable):
        build("resnet18", pretrained=True)


def test_weights_of_another_network_are_rejected(weights_file: Path) -> None:
    torch.save({"layer": torch.zeros(1)}, weights_file)
    with pytest.raises(WeightsUnavailable, match="put the whole file"):
        build("resnet18", pretrained=True)


def test_layer_groups_split_after_the_second_stage() -> None:
    early, late, _ = build("resnet18").layer_groups()
    images = torch.rand(2, 3, 64, 64)
    assert early(images).shape == (2, 128, 8, 8)
    assert late(early(images)).shape == (2, 512, 2, 2)


def test_head_takes_the_number_of_features_of_a_deeper_network() -> None:
    head = build("resnet50").head
    assert head.class_activation_maps(torch.rand(1, 2048, 3, 3)).shape == (1, 5, 3, 3)


def test_grey_images_are_rejected() -> None:
    with pytest.raises(ValueError, match="3 channels, not 1"):
        build("resnet18", in_channels=1)


@pytest.mark.parametrize("name", ["resnet17", "vgg16"])
def test_architecture_that_is_no_resnet_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=rf"no architecture torchvision:{name}; .*resnet34"):
        build(name)
