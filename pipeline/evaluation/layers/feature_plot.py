"""Plot of an image inside a network: first kernels, features of each stage, maps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from models import ClassMapNetwork
from pipeline.runs.run import Run

COLUMNS = 8
CELL_INCHES, TITLE_INCHES = 1.15, 0.25
LABEL_WIDTH = 1.2
"""Width of the label column, in cells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """Features, maps and probabilities of one image, on the CPU."""

    kernels: Tensor
    """Kernels of the first layer: (out, in, k, k)."""
    stages: dict[str, Tensor]
    """Features (C, h, w) by the name and type of their module, in order."""
    probabilities: Tensor
    """(K,)."""
    maps: Tensor
    """Class activation maps: (K, h, w)."""


def draw_inside(run: Run, pixels_hwc: NDArray[np.uint8]) -> Figure:
    """Draw an image, uint8 (H, W, C), inside the network of a run."""
    prepare = run.config.normalisation.on(torch.device("cpu"))
    # A copy: the pixels of an upload may be read-only.
    inspection = inspect_network(run.network, prepare(torch.from_numpy(pixels_hwc.copy())[None]))
    return draw(inspection, pixels_hwc, run.config.classes)


@torch.inference_mode()
def inspect_network(network: ClassMapNetwork, images_nchw: Tensor) -> Inspection:
    """Run a network in evaluation mode on one normalised image (1, C, H, W)."""
    features, stages = images_nchw, {}
    for name, module in network.features.named_children():
        features = module(features)
        # The next module may work in place.
        stages[f"features.{name}\n{type(module).__name__}"] = features[0].clone()
    return Inspection(
        kernels=first_kernels(network),
        stages=stages,
        probabilities=network.head(features).softmax(1)[0],
        maps=network.head.class_activation_maps(features)[0],
    )


def first_kernels(network: nn.Module) -> Tensor:
    """Return the kernels of the first convolution: (out, in, k, k).

    Raises:
        ValueError: the network has no convolution.

    """
    for module in network.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 4:
            return weight.detach()
    raise ValueError("the network has no convolution")


def draw(inspection: Inspection, pixels_hwc: NDArray[np.uint8], classes: Sequence[str]) -> Figure:
    """Draw the image with the maps of its likeliest classes, the kernels, and a row per stage.

    Each row shows the first 8 channels with one colour scale, so that a dark channel is a weak one.
    """
    figure, rows = _grid(2 + len(inspection.stages))
    _draw_prediction(rows[0], inspection, pixels_hwc, classes)
    _draw_kernels(rows[1], inspection.kernels)
    for row, (name, features) in zip(rows[2:], inspection.stages.items(), strict=True):
        _draw_features(row, name, features)
    return figure


def _grid(rows: int) -> tuple[Figure, list[list[Axes]]]:
    """Make a figure of rows, each with a label cell and 8 image cells."""
    width, height = CELL_INCHES * (LABEL_WIDTH + COLUMNS), CELL_INCHES * 1.08 * rows + TITLE_INCHES
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(
        rows,
        1 + COLUMNS,
        squeeze=False,
        width_ratios=[LABEL_WIDTH, *[1] * COLUMNS],
        gridspec_kw={
            "left": 0,
            "right": 0.995,
            "bottom": 0.005,
            "top": 1 - TITLE_INCHES / height,
            "wspace": 0.05,
            "hspace": 0.08,
        },
    )
    for cell in axes.flat:
        cell.set_axis_off()
    return figure, [list(row) for row in axes]


def _draw_prediction(
    row: list[Axes], inspection: Inspection, pixels_hwc: NDArray[np.uint8], classes: Sequence[str]
) -> None:
    _write(row[0], "image, and\nevidence for\n(red) a class")
    grey = pixels_hwc.mean(2)
    row[1].imshow(pixels_hwc.squeeze(), cmap="gray", vmin=0, vmax=255)
    likeliest = inspection.probabilities.argsort(descending=True).tolist()[: COLUMNS - 1]
    maps = inspection.maps[likeliest]
    scale = float(maps.abs().max())
    height, width = grey.shape
    for cell, label, scores in zip(row[2:], likeliest, maps, strict=False):
        cell.imshow(grey, cmap="gray", vmin=0, vmax=255)
        cell.imshow(
            scores.numpy(),
            cmap="RdBu_r",
            vmin=-scale,
            vmax=scale,
            alpha=0.6,
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        )
        cell.set_title(f"{classes[label]} {inspection.probabilities[label]:.1%}", fontsize=7)


def _draw_kernels(row: list[Axes], kernels: Tensor) -> None:
    out, channels, height, width = kernels.shape
    _write(row[0], f"first kernels\n{out} of {channels}x{height}x{width}")
    scale = float(kernels.abs().max()) or 1.0
    for cell, kernel in zip(row[1:], kernels, strict=False):
        if channels == 3:  # grey is a weight of 0
            cell.imshow((kernel / (2 * scale) + 0.5).permute(1, 2, 0).numpy())
        else:
            cell.imshow(kernel.mean(0).numpy(), cmap="gray", vmin=-scale, vmax=scale)


def _draw_features(row: list[Axes], name: str, features: Tensor) -> None:
    _write(row[0], f"{name}\n{'x'.join(map(str, features.shape))}")
    shown = features[:COLUMNS]
    low, high = float(shown.min()), float(shown.max())
    for cell, channel in zip(row[1:], shown, strict=False):
        cell.imshow(channel.numpy(), cmap="magma", vmin=low, vmax=high)


def _write(cell: Axes, label: str) -> None:
    cell.text(0.05, 0.5, label, transform=cell.transAxes, fontsize=8, va="center")
