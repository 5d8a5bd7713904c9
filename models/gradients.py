"""Derivatives written as a forward pass, so that an exported graph can contain them.

Reverse-mode differentiation of the layers that these networks are made of. Exporters do not support
`backward`, but they support the convolutions, comparisons and sums that it consists of.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.layers import Residual
from models.norm_layers import LessonNorm

PullBack = Callable[[Tensor], Tensor]
"""Maps derivatives with respect to a layer's output, (N, K, C', h', w'), to its input's."""


class NotDifferentiableHereError(Exception):
    """Layer without a derivative in this module; the message names it."""


def with_pull_back(layer: nn.Module, x: Tensor) -> tuple[Tensor, PullBack]:
    """Run a layer in evaluation mode on (N, C, h, w); return its output and its pull-back.

    Derivatives equal those of autograd, except where several values of a pooling window are the
    largest: autograd then counts the first of them, and this function all.

    Raises:
        NotDifferentiableHereError: there is no rule for the layer.

    """
    match layer:
        case nn.Sequential():
            return _chain(list(layer), x)
        case Residual():
            inside, back = with_pull_back(layer.branch, x)
            return x + inside, lambda by_output: by_output + back(by_output)
        case nn.Conv2d():
            return layer(x), lambda by_output: _transposed(layer, by_output, x)
        case nn.BatchNorm2d() if layer.running_var is not None:
            deviation = (layer.running_var + layer.eps).sqrt()
            gain = layer.weight / deviation if layer.affine else 1 / deviation
            return layer(x), lambda by_output: by_output * gain[:, None, None]
        case LessonNorm():
            slope = layer.multiplier / (layer.running_variance + layer.epsilon).sqrt()
            return layer(x), lambda by_output: by_output * slope[:, None, None]
        case nn.ReLU():
            positive = x > 0
            return x.relu(), lambda by_output: by_output * positive[:, None]
        case nn.MaxPool2d() if _halves(layer):
            return _pool(layer, x)
        case nn.Dropout() | nn.Identity():
            return x, lambda by_output: by_output
    if _is_torchvision_block(layer):
        return _torchvision_block(layer, x)
    raise NotDifferentiableHereError(f"{type(layer).__name__} has no derivative here")


def layercam_stage(features: nn.Sequential, images: Tensor) -> int | None:
    """Count the modules of `features` up to the last stage with a higher resolution than its end.

    None if the resolution never falls. `images` are normalised, (N, C, H, W).
    """
    sizes = []
    with torch.inference_mode():
        for module in features:
            images = module(images)
            sizes.append(images.shape[2:].numel())
    larger = [at for at, size in enumerate(sizes, start=1) if size > sizes[-1]]
    return larger[-1] if larger else None


def _chain(layers: list[nn.Module], x: Tensor) -> tuple[Tensor, PullBack]:
    backs = []
    for layer in layers:
        x, back = with_pull_back(layer, x)
        backs.append(back)

    def pull(by_output: Tensor) -> Tensor:
        for back in reversed(backs):
            by_output = back(by_output)
        return by_output

    return x, pull


def _transposed(layer: nn.Conv2d, by_output: Tensor, x: Tensor) -> Tensor:
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise NotDifferentiableHereError("a convolution whose padding is not zeros")
    kernel, stride = layer.kernel_size, layer.stride
    padding, dilation = layer.padding, layer.dilation
    inside, outside = map(int, x.shape[2:]), map(int, by_output.shape[3:])
    # Rows and columns at the edge of the input that no window reached.
    rest = [
        before - ((after - 1) * step - 2 * pad + spread * (size - 1) + 1)
        for before, after, step, pad, spread, size in zip(
            inside, outside, stride, padding, dilation, kernel, strict=True
        )
    ]
    by_input = nn.functional.conv_transpose2d(
        by_output.flatten(0, 1),
        layer.weight,
        stride=stride,
        padding=padding,
        output_padding=rest,
        groups=layer.groups,
        dilation=dilation,
    )
    return by_input.reshape(-1, by_output.shape[1], *by_input.shape[1:])


def _halves(layer: nn.MaxPool2d) -> bool:
    return (layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode) == (2, 2, 0, False)


def _pool(layer: nn.MaxPool2d, x: Tensor) -> tuple[Tensor, PullBack]:
    pooled = layer(x)
    rows, columns = (int(size) % 2 for size in x.shape[2:])

    def enlarged(values: Tensor) -> Tensor:
        twice = values.repeat_interleave(2, -2).repeat_interleave(2, -1)
        return nn.functional.pad(twice, (0, columns, 0, rows))

    largest = x == enlarged(pooled)
    if rows or columns:  # an odd last row or column belongs to no window
        seen = enlarged(torch.ones_like(pooled))
        largest = largest & (seen > 0)
    return pooled, lambda by_output: enlarged(by_output) * largest[:, None]


def _is_torchvision_block(layer: nn.Module) -> bool:
    return type(layer).__module__ == "torchvision.models.resnet" and hasattr(layer, "downsample")


def _torchvision_block(layer: nn.Module, x: Tensor) -> tuple[Tensor, PullBack]:
    """relu(branch(x) + shortcut(x)), of two convolutions (BasicBlock) or three (Bottleneck)."""
    numbers = [number for number in (1, 2, 3) if hasattr(layer, f"conv{number}")]
    modules: list[nn.Module] = []
    for number in numbers:
        modules += [getattr(layer, f"conv{number}"), getattr(layer, f"bn{number}"), nn.ReLU()]
    branch, through_branch = _chain(modules[:-1], x)
    shortcut, through_shortcut = with_pull_back(layer.downsample or nn.Identity(), x)  # type: ignore[arg-type]
    out, back = with_pull_back(nn.ReLU(), branch + shortcut)

    def pull(by_output: Tensor) -> Tensor:
        by_sum = back(by_output)
        return through_branch(by_sum) + through_shortcut(by_sum)

    return out, pull
