"""Out-of-distribution (OOD) images: data that a classifier was not trained for."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from limelight.imaging.image_rule import ImageRule
from pipeline.data.dataset_cache import cached_file
from pipeline.data.registry import load_cached, share_images
from pipeline.data.served_images import as_served
from pipeline.data.synthetic.scenes import background

Images = NDArray[np.uint8]

DIGITS = ("mnist", "mnist37", "digits8")
_FOR_DIGITS = ("fashion", "cifar10", "noise", "textures")
_FOR_PHOTOS = ("mnist", "fashion", "noise", "textures")


def kinds_for(dataset: str) -> tuple[str, ...]:
    """Return the kinds of OOD images that are available for a network trained on `dataset`.

    A published data set is available if it is in the cache.
    """
    missing = kinds_missing(dataset)
    return tuple(kind for kind in _kinds(dataset) if kind not in missing)


def kinds_missing(dataset: str) -> tuple[str, ...]:
    """Return the published OOD data sets for `dataset` that are not in the cache."""
    published = (kind for kind in _kinds(dataset) if kind not in SYNTHETIC)
    return tuple(kind for kind in published if not cached_file(kind).is_file())


def _kinds(dataset: str) -> tuple[str, ...]:
    kinds = _FOR_DIGITS if dataset in DIGITS else _FOR_PHOTOS
    return tuple(kind for kind in kinds if kind != dataset and not share_images(kind, dataset))


def ood_images(
    dataset: str, rule: ImageRule, count: int, *, held_out: bool
) -> Iterator[tuple[str, Images]]:
    """Yield the kinds of OOD images for `dataset`, with at most `count` images of each.

    Images are prepared as in the service: uint8 (N, H, W, C). Those that are `held_out` differ from
    the others: published images are then of the test split, otherwise of the training split.

    Raises:
        DataError: a published data set is corrupt.

    """
    rng = np.random.default_rng(int(held_out))
    for kind in kinds_for(dataset):
        yield kind, images_of_kind(kind, rule, count, rng, held_out=held_out)


def images_of_kind(
    kind: str, rule: ImageRule, count: int, rng: np.random.Generator, *, held_out: bool
) -> Images:
    """Return at most `count` images of a kind; see `ood_images`."""
    if kind in SYNTHETIC:
        drawn = [SYNTHETIC[kind](rng, rule) for _ in range(count)]
        return as_served(np.stack(drawn), rule)
    images = load_cached(kind)["test_images" if held_out else "train_images"]
    chosen = rng.choice(len(images), min(count, len(images)), replace=False)
    return as_served(images[np.sort(chosen)], rule)


def _noise(rng: np.random.Generator, rule: ImageRule) -> Images:
    """Draw independent pixels, from a uniform or a normal distribution."""
    shape = rule.height, rule.width, rule.channels
    if rng.random() < 0.5:
        return rng.integers(0, 256, shape, np.uint8)
    levels = rng.normal(rng.uniform(64, 192), rng.uniform(16, 96), shape)
    noise: Images = np.rint(levels).clip(0, 255).astype(np.uint8)
    return noise


def _texture(rng: np.random.Generator, rule: ImageRule) -> Images:
    side = max(rule.height, rule.width)
    return background(rng, size=side, channels=rule.channels)[: rule.height, : rule.width]


SYNTHETIC: dict[str, Callable[[np.random.Generator, ImageRule], Images]] = {
    "noise": _noise,
    "textures": _texture,
}
"""Synthetic kinds, which need no data set."""
