"""Batch size, epochs and learning rate for few images."""

import math
from collections.abc import Collection
from typing import Any

from pipeline.training.recipe import Recipe

ADAPTED = frozenset({"batch_size", "epochs", "schedule__peak"})
"""Options that follow the number of images, unless the user chose them."""
# An epoch of few steps follows the schedule in a few jumps, and drops up to a batch of images.
_STEPS_PER_EPOCH = 8
_STEPS = 240
_MOST_EPOCHS = 100
# BatchNorm statistics of smaller batches are too noisy.
_SMALLEST_BATCH = 4


def recipe_for(
    recipe: Recipe, images: int, *, processes: int = 1, keep: Collection[str] = ()
) -> Recipe:
    """Return the recipe with the batch size and the epochs that `images` training images need.

    Nothing changes if there are enough of them. With smaller batches, the learning rate is smaller
    in the same proportion (Goyal et al., 2017, arXiv 1706.02677, section 2.1).

    Args:
        recipe: the options so far.
        images: number of images to fit.
        processes: that share a batch.
        keep: options that the user chose, of those in `ADAPTED`.
    """
    changes: dict[str, Any] = {}
    batch = recipe.batch_size
    if "batch_size" not in keep and images < _STEPS_PER_EPOCH * batch:
        batch = _batch_size(images, batch, processes)
        changes["batch_size"] = batch
        if "schedule__peak" not in keep and recipe.optimizer.kind == "sgd":
            changes["schedule__peak"] = _scaled(recipe.schedule.peak, batch / recipe.batch_size)
    epochs = math.ceil(_STEPS / max(1, images // batch))
    if "epochs" not in keep and recipe.epochs < epochs:
        changes["epochs"] = max(recipe.epochs, min(epochs, _MOST_EPOCHS))
    return recipe.but(**changes) if changes else recipe


def _batch_size(images: int, most: int, processes: int) -> int:
    """Return a power of two with about eight batches in an epoch, or all images if they are few."""
    wanted = max(images // _STEPS_PER_EPOCH, _SMALLEST_BATCH)
    batch = min(most, 1 << (wanted.bit_length() - 1), max(images, 2))
    return processes * math.ceil(batch / processes)


def _scaled(peak: float | tuple[float, ...], factor: float) -> float | tuple[float, ...]:
    if isinstance(peak, tuple):
        return tuple(each * factor for each in peak)
    return peak * factor
