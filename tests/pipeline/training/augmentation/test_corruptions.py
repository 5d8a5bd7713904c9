"""Corruptions of training images, compared with Pillow's JPEG files and with scipy's filter."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from pipeline.data.synthetic.pictures import draw_pictures
from pipeline.training.augmentation.corruptions import KINDS, SMALLEST_SIDE, Corruptions, blur, jpeg


def _photos(channels: int = 3, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    rng = np.random.default_rng(0)
    # Grey with some colour, as photographs are. Saturated colours show every difference.
    small = rng.integers(0, 256, (8, 6, 6, 1)) + rng.integers(-30, 31, (8, 6, 6, channels))
    small = small.clip(0, 255).astype(np.uint8)
    height, width = size
    smooth = [
        np.asarray(
            Image.fromarray(image.squeeze()).resize((width, height), Image.Resampling.BICUBIC)
        )
        for image in small
    ]
    return torch.from_numpy(np.stack(smooth).reshape(8, height, width, channels))


def _by_pillow(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(image.shape)


@pytest.mark.parametrize("quality", [25, 50, 75, 95])
@pytest.mark.parametrize(("channels", "size"), [(3, (32, 32)), (1, (28, 28)), (3, (20, 33))])
def test_jpeg_equals_pillow_up_to_rounding(
    quality: int, channels: int, size: tuple[int, int]
) -> None:
    images = _photos(channels, size)
    ours = jpeg(images, torch.full((8,), float(quality))).numpy().astype(int)
    theirs = np.stack([_by_pillow(image, quality) for image in images.numpy()]).astype(int)
    error = np.abs(ours - theirs).mean()
    assert error < 1.0
    assert error < 0.5 * np.abs(theirs - images.numpy().astype(int)).mean()


def test_each_image_has_a_jpeg_quality_of_its_own() -> None:
    images = _photos()
    qualities = torch.tensor([20.0, 90.0] * 4)
    together = jpeg(images, qualities)
    for quality in (20.0, 90.0):
        alone = jpeg(images, torch.full((8,), quality))
        assert torch.equal(together[qualities == quality], alone[qualities == quality])


def test_round_blur_equals_a_gaussian_filter() -> None:
    images = _photos()
    deviation = torch.full((8,), 0.9)
    ours = blur(images, deviation, deviation, torch.linspace(0, 3, 8)).numpy()
    for image, blurred in zip(images.numpy(), ours, strict=True):
        expected = gaussian_filter(image.astype(float), (0.9, 0.9, 0), mode="mirror", radius=3)
        np.testing.assert_allclose(blurred, expected, atol=0.51)


def test_long_blur_has_the_direction_of_its_angle() -> None:
    point = torch.zeros(1, 15, 15, 1, dtype=torch.uint8)
    point[0, 7, 7] = 255
    along, across = torch.tensor([1.8]), torch.tensor([0.4])
    level = blur(point, along, across, torch.tensor([0.0]))[0, :, :, 0]
    assert int((level[7] > 0).sum()) > 2 * int((level[:, 7] > 0).sum())
    upright = blur(point, along, across, torch.tensor([torch.pi / 2]))[0, :, :, 0]
    assert torch.equal(upright, level.T)


def _corruptions(images: torch.Tensor, share: float, outliers: float) -> Corruptions:
    _, height, width, channels = images.shape
    shape, rng = (height, width, channels), torch.Generator().manual_seed(0)
    return Corruptions(share, outliers, shape, rng, images.device)


def test_shares_are_those_of_the_recipe_and_the_rest_is_unchanged() -> None:
    images = _photos().repeat(25, 1, 1, 1)
    corruptions = _corruptions(images, 0.6, 0.1)
    rng = torch.Generator().manual_seed(1)
    # Also in batches of four images, as few images of one's own have.
    drawn = torch.cat([corruptions.draw(4, rng)[0] for _ in range(2500)])
    shares = {kind: float((drawn == kind).float().mean()) for kind in set(drawn.tolist())}
    assert shares == pytest.approx(
        {-1: 0.1, 0: 0.3, 1: 0.2, 2: 0.1, 3: 0.1, 4: 0.1, 5: 0.1}, abs=0.02
    )
    assert len(shares) == len(KINDS) + 2
    numbers = corruptions.draw(200, rng)
    kinds = numbers[0]
    corrupted = corruptions.apply(images, numbers)
    changed = (corrupted != images).flatten(1).any(1)
    assert not changed[kinds == 0].any()
    # JPEG of the highest quality may leave a smooth image as it is.
    assert changed[kinds != 0].float().mean() > 0.95
    assert corrupted.dtype == torch.uint8


def test_outliers_are_pictures_and_not_the_image() -> None:
    images = _photos()
    corruptions = _corruptions(images, 0.0, 0.5)
    numbers = corruptions.draw(8, torch.Generator().manual_seed(1))
    one = corruptions.apply(images, numbers)
    other = corruptions.apply(255 - images, numbers)
    outlier = numbers[0] < 0
    assert int(outlier.sum()) == 4
    assert torch.equal(one[outlier], other[outlier])
    assert torch.equal(one[~outlier], images[~outlier])


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_differ_and_depend_on_the_seed_only(channels: int) -> None:
    drawn = [
        draw_pictures(np.random.default_rng(seed), 12, height=20, width=24, channels=channels)
        for seed in (0, 0, 1)
    ]
    assert drawn[0].shape == (12, 20, 24, channels)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not (drawn[0] == drawn[2]).all((1, 2, 3)).any()
    assert (drawn[0].std((1, 2, 3)) > 0).mean() > 0.8


@pytest.mark.parametrize("side", [SMALLEST_SIDE, 620])
def test_smallest_and_large_images_are_corrupted(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.training.augmentation.corruptions.PICTURES", 8)
    images = torch.full((6, side, side, 3), 100, dtype=torch.uint8)
    corruptions = _corruptions(images, 1.0, 0.0)
    numbers = corruptions.draw(6, torch.Generator().manual_seed(1))
    numbers[0] = 3  # noise
    noisy = corruptions.apply(images, numbers)
    assert (noisy != images).float().mean() > 0.5
    assert not torch.equal(noisy[0], noisy[1])
    for kind in range(1, len(KINDS) + 1):
        numbers[0] = kind
        assert corruptions.apply(images, numbers).shape == images.shape
