"""Pixels that one activation sees, compared with where its gradient reaches."""

from pathlib import Path

import pytest
import torch
from torch import nn

from models import NetworkOptions, build_network
from pipeline.errors import PipelineError
from pipeline.evaluation.layers.field_plot import seen_pixels
from pipeline.evaluation.layers.layer_summary import summarise
from tests.pipeline.cli.running import limelight

SIDE = 40


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("name", ["three-or-seven", "simple-cnn", "convnet", "resnet-max"])
def test_seen_pixels_are_those_that_the_gradient_reaches(name: str, place: str) -> None:
    options = NetworkOptions(architecture=name, widths=(2, 2, 2), norm="none")
    network = build_network(options, in_channels=1, classes=2)
    for parameter in network.parameters():  # no ReLU and no sum hides a pixel
        nn.init.constant_(parameter, 0.1)
    image = torch.ones(1, 1, SIDE, SIDE, requires_grad=True)
    features = network.features(image)
    side = features.shape[2]
    row = {"first": 0, "middle": side // 2, "last": side - 1}[place]
    column = side - 1 - row
    features[0, 0, row, column].backward()
    assert image.grad is not None
    reached = image.grad[0, 0] != 0
    layers = summarise(network, 1, SIDE, SIDE)
    last = [layer.name for layer in layers if layer.name.startswith("features")][-1]
    seen = seen_pixels(layers, last, row, column, height=SIDE, width=SIDE)
    assert reached.any(1).nonzero().flatten().tolist() == list(seen.rows)
    assert reached.any(0).nonzero().flatten().tolist() == list(seen.columns)


def test_activation_behind_two_strided_layers_sees_7_x_7_pixels(tmp_path: Path) -> None:
    done = limelight(
        "summary", "three-or-seven", "--receptive-field", "features.1.0", "3", "2",
        "--out", "field.svg", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "features.1.0 at row 3, column 2 sees rows 9 to 15 and columns 5 to 11: 7 x 7 pixels",
        "field.svg",
    ]
    assert "it sees 7 x 7" in (tmp_path / "field.svg").read_text()


def test_activation_behind_global_pooling_sees_the_whole_image() -> None:
    layers = summarise(
        build_network(NetworkOptions(architecture="resnet"), in_channels=3, classes=10), 3, 32, 24
    )
    seen = seen_pixels(layers, "head.linear", 0, 0, height=32, width=24)
    assert (seen.rows, seen.columns) == (range(32), range(24))


def test_unknown_layer_or_activation_is_rejected() -> None:
    layers = summarise(
        build_network(NetworkOptions(architecture="convnet"), in_channels=3, classes=10), 3, 32, 32
    )
    with pytest.raises(PipelineError, match=r"no layer 'conv1'; there are: features\.0\.0"):
        seen_pixels(layers, "conv1", 0, 0, height=32, width=32)
    with pytest.raises(PipelineError, match="has 15 x 15 activations: there is no row 15"):
        seen_pixels(layers, "features.0.0", 15, 0, height=32, width=32)
