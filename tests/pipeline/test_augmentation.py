"""Crops and flips, against numpy and by exhaustive search."""

import numpy as np
import pytest
import torch

from pipeline.augmentation import pad_reflect, random_crops


def _images() -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (6, 9, 7, 3), dtype=np.uint8))


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_padding_is_numpys_reflection(padding: int) -> None:
    images = _images()
    expected = np.pad(images, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)), mode="reflect")
    np.testing.assert_array_equal(pad_reflect(images, padding), expected)


def test_padding_wider_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="padding 7 needs images of more than 7 pixels"):
        pad_reflect(_images(), 7)


def test_every_crop_is_a_window_of_its_own_image_or_its_mirror() -> None:
    images, padding = _images(), 2
    padded = pad_reflect(images, padding)
    rng = torch.Generator().manual_seed(1)
    indices = torch.randint(len(images), (64,), generator=rng)
    crops = random_crops(padded, indices, padding, flip=True, rng=rng)
    mirrored = 0
    for crop, index in zip(crops, indices, strict=True):
        windows = [
            padded[index, top : top + 9, left : left + 7]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
        ]
        straight = any(torch.equal(crop, window) for window in windows)
        flipped = any(torch.equal(crop, window.flip(1)) for window in windows)
        assert straight or flipped
        mirrored += flipped
    assert 16 < mirrored < 48


def test_without_flip_and_padding_images_stay_as_they_are() -> None:
    images = _images()
    indices = torch.tensor([4, 0])
    crops = random_crops(images, indices, 0, flip=False, rng=torch.Generator())
    torch.testing.assert_close(crops, images[indices])
