"""Feature plot: each cell shows the values that the network computes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from typer import Typer
from typer.testing import CliRunner

from models import ClassMapNetwork, NetworkOptions, build_network
from pipeline.cli.commands.inspect import inspect
from pipeline.errors import PipelineError, RunError
from pipeline.evaluation.layers.feature_plot import COLUMNS, draw, first_kernels, inspect_network
from pipeline.runs.run import Run
from tests.serving_kit import REPOSITORY

CLASSES = ("ant", "bee", "cow")


def build(name: str, *, in_channels: int = 3) -> ClassMapNetwork:
    torch.manual_seed(0)
    options = NetworkOptions(architecture=name)
    network = build_network(options, in_channels=in_channels, classes=len(CLASSES)).eval()
    return network.requires_grad_(False)


def cells(figure: Figure) -> list[list[NDArray[np.float32] | None]]:
    """Return the array of each image cell, row by row."""
    shown = [axes.images[-1].get_array() if axes.images else None for axes in figure.axes]
    arrays = [None if array is None else np.asarray(array) for array in shown]
    rows = [arrays[at : at + 1 + COLUMNS] for at in range(0, len(arrays), 1 + COLUMNS)]
    return [row[1:] for row in rows]


@pytest.mark.parametrize("name", ["resnet", "torchvision:resnet18", "simple-cnn"])
def test_stages_are_the_features_after_each_module(name: str) -> None:
    # torchvision's layers work in place on the output of the layer before.
    network, images = build(name), torch.randn(1, 3, 32, 32)
    stages = inspect_network(network, images).stages
    assert len(stages) == len(network.features)
    for at, features in enumerate(stages.values(), start=1):
        torch.testing.assert_close(features, network.features[:at](images)[0])


def test_probabilities_and_maps_are_the_networks() -> None:
    network, images = build("resnet"), torch.randn(1, 3, 32, 32)
    inspection = inspect_network(network, images)
    torch.testing.assert_close(inspection.probabilities, network(images).softmax(1)[0])
    logits = inspection.maps.mean((1, 2)) + network.head.bias
    torch.testing.assert_close(logits, network(images)[0])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("three-or-seven", (4, 3, 3, 3)),
        ("simple-cnn", (8, 3, 5, 5)),
        ("simplenet", (40, 3, 32, 32)),
    ],
)
def test_first_kernels_are_those_of_the_first_convolution(
    name: str, shape: tuple[int, ...]
) -> None:
    assert first_kernels(build(name)).shape == shape


def test_network_without_convolution_is_rejected() -> None:
    with pytest.raises(ValueError, match="no convolution"):
        first_kernels(nn.Linear(3, 4))


@pytest.mark.parametrize("channels", [1, 3])
def test_rows_are_the_image_the_kernels_and_the_stages(channels: int) -> None:
    network, images = (
        build("three-or-seven", in_channels=channels),
        torch.randn(1, channels, 28, 28),
    )
    pixels = np.arange(28 * 28 * channels).astype(np.uint8).reshape(28, 28, channels)
    inspection = inspect_network(network, images)
    figure = draw(inspection, pixels, CLASSES)
    prediction, kernels, *stages = cells(figure)
    np.testing.assert_array_equal(prediction[0], pixels.squeeze())
    # The network has four kernels.
    assert [cell is not None for cell in kernels] == [True] * 4 + [False] * 4
    assert len(stages) == len(network.features)
    for row, features in zip(stages, inspection.stages.values(), strict=True):
        for cell, channel in zip(row, features, strict=False):
            np.testing.assert_array_equal(cell, channel)


def test_most_probable_class_comes_first_with_its_probability() -> None:
    network, images = build("resnet"), torch.randn(1, 3, 32, 32)
    inspection = inspect_network(network, images)
    figure = draw(inspection, np.zeros((32, 32, 3), np.uint8), CLASSES)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    best = int(network(images).argmax())
    assert titles[0] == f"{CLASSES[best]} {network(images).softmax(1).max().item():.1%}"
    assert len(titles) == len(CLASSES)
    np.testing.assert_array_equal(cells(figure)[0][1], inspection.maps[best])


def drawn(run: Path, image: Path, out: Path) -> str:
    app = Typer()
    app.command()(inspect)
    arguments = [str(run), str(image), "--out", str(out)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_command_writes_a_png(digits8_run: Run, tmp_path: Path) -> None:
    seven = REPOSITORY / "examples" / "seven.png"
    out = tmp_path / "new" / "seven.png"
    assert drawn(digits8_run.folder, seven, out) == f"{out}\n"
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.convert("L").getextrema() == (0, 255)


def test_same_image_gives_identical_files(digits8_run: Run, tmp_path: Path) -> None:
    seven = REPOSITORY / "examples" / "seven.png"
    for name in ("first.png", "second.png"):
        drawn(digits8_run.folder, seven, tmp_path / name)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_unreadable_image_is_an_error_with_advice(digits8_run: Run, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("a seven")
    for file in (text, tmp_path / "missing.png"):
        with pytest.raises(PipelineError, match=rf"{file.name} cannot be read .*choose an image"):
            drawn(digits8_run.folder, file, tmp_path / "out.png")


def test_folder_without_a_run_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run"):
        drawn(tmp_path, tmp_path / "seven.png", tmp_path / "out.png")
