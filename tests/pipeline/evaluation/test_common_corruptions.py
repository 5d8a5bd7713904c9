"""Common corruptions: what each does, beside independent references, for images of any size."""

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

from pipeline.evaluation.common_corruptions import blur, digital, noise, registry, weather
from pipeline.evaluation.common_corruptions.registry import CORRUPTIONS, corrupt
from pipeline.evaluation.common_corruptions.resampling import sampled, zoomed
from pipeline.evaluation.common_corruptions.severities import (
    PARAMETERS,
    PUBLISHED,
    SEVERITIES,
    parameters_of,
    published_for,
)

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]
SHAPES = ((32, 32, 3), (28, 28, 1), (8, 8, 1), (64, 40, 3), (1, 3, 1))


def some_images(count: int, shape: tuple[int, ...], seed: int = 0) -> Images:
    """Smooth images, as photographs are."""
    noisy = np.random.default_rng(seed).normal(size=(count, *shape))
    smooth = gaussian_filter(noisy, (0, 3, 3, 0))
    images: Images = np.rint(128 + 50 * smooth / smooth.std()).clip(0, 255).astype(np.uint8)
    return images


def some_levels(count: int = 4, shape: tuple[int, ...] = (32, 32, 3)) -> Floats:
    return some_images(count, shape).astype(np.float32) / np.float32(255)


def rms(changed: Images, images: Images) -> float:
    return float(np.sqrt(((changed.astype(float) - images) ** 2).mean()))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruption_keeps_size_and_channels_and_leaves_its_input_alone(name: str) -> None:
    for shape in SHAPES:
        images = some_images(3, shape)
        before = images.copy()
        for severity in (1, SEVERITIES):
            changed = corrupt(images, name, severity)
            assert changed.dtype == np.uint8
            assert changed.shape == images.shape
        np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruption_is_the_same_each_time_whatever_other_generators_do(name: str) -> None:
    images = some_images(6, (32, 32, 3))
    first = corrupt(images, name, 3)
    np.random.default_rng(1).random(5)
    np.testing.assert_array_equal(corrupt(images, name, 3), first)
    assert (first != images).any((1, 2, 3)).all()
    fixed = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
    assert (corrupt(images, name, 3, seed=1) == first).all() == (name in fixed)


@pytest.mark.parametrize("source", PUBLISHED)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severest_corruption_changes_an_image_most(name: str, source: str) -> None:
    side = min(PUBLISHED[source], 96)
    images = some_images(8, (side, side, 3), seed=1)
    mildest, severest = (rms(corrupt(images, name, level), images) for level in (1, SEVERITIES))
    # The affine part of the elastic transform becomes smaller while the rest becomes larger.
    assert severest > mildest or name == "elastic_transform"


def test_parameters_are_complete_and_chosen_by_the_shorter_side() -> None:
    for source in PUBLISHED:
        assert PARAMETERS[source].keys() == CORRUPTIONS.keys()
        assert {len(levels) for levels in PARAMETERS[source].values()} == {SEVERITIES}
    assert len(CORRUPTIONS) == 15
    sizes = {8: "CIFAR-10-C", 28: "CIFAR-10-C", 64: "Tiny ImageNet-C", 224: "ImageNet-C"}
    assert {side: published_for(side, 2 * side) for side in sizes} == sizes
    assert parameters_of("CIFAR-10-C", "contrast", 5) == (0.15,)
    assert parameters_of("ImageNet-C", "motion_blur", 1) == (10, 3)


def test_corruptions_have_nothing_of_those_of_the_training() -> None:
    for file in Path(registry.__file__).parent.glob("*.py"):
        lines = file.read_text(encoding="utf-8").splitlines()
        imports = [line for line in lines if line.startswith(("import", "from"))]
        assert not [line for line in imports if "training" in line or "torch" in line]


def test_noise_has_its_deviation_its_photons_and_its_share() -> None:
    rng, grey = np.random.default_rng(0), np.full((8, 64, 64, 3), 0.5, np.float32)
    assert noise.gaussian_noise(grey, rng, 0.1).std() == pytest.approx(0.1, rel=0.02)
    counted = noise.shot_noise(grey, rng, 50)
    # The variance of a Poisson distribution is its mean.
    assert counted.var() == pytest.approx(0.5 / 50, rel=0.05)
    np.testing.assert_allclose(counted * 50, np.rint(counted * 50), atol=1e-4)
    dead = noise.impulse_noise(grey, rng, 0.1)
    assert (dead == 0).mean() == pytest.approx(0.05, rel=0.1)
    assert (dead == 1).mean() == pytest.approx(0.05, rel=0.1)


def test_zoom_equals_scipys() -> None:
    levels = some_levels(2, (32, 20, 3))
    for factor in (1, 1.11, 1.25, 2.25):
        height, width = (int(np.ceil(size / factor)) for size in (32, 20))
        top, left = (32 - height) // 2, (20 - width) // 2
        middle = levels[:, top : top + height, left : left + width]
        enlarged = zoom(middle, (1, factor, factor, 1), order=1)
        top, left = (enlarged.shape[1] - 32) // 2, (enlarged.shape[2] - 20) // 2
        expected = enlarged[:, top : top + 32, left : left + 20]
        np.testing.assert_allclose(zoomed(levels, factor), expected, atol=1e-5)


@pytest.mark.parametrize(("edge_twice", "mode"), [(True, "reflect"), (False, "mirror")])
def test_interpolation_equals_scipys_beyond_every_edge(edge_twice: bool, mode: str) -> None:
    levels = some_levels(3, (12, 9, 1))
    rng = np.random.default_rng(0)
    rows, columns = rng.uniform(-30, 30, (2, 3, 7, 5)).astype(np.float32)
    found = sampled(levels, rows, columns, edge_twice=edge_twice)
    for image, y, x, got in zip(levels, rows, columns, found, strict=True):
        expected = map_coordinates(image[..., 0], (y, x), order=1, mode=mode)
        np.testing.assert_allclose(got[..., 0], expected, atol=1e-4)


def test_blurs_keep_a_plain_image_and_spread_a_point() -> None:
    rng = np.random.default_rng(0)
    plain, point = np.full((2, 33, 33, 1), 0.5, np.float32), np.zeros((2, 33, 33, 1), np.float32)
    point[:, 16, 16] = 1
    parameters = {"defocus_blur": (4, 0.5), "motion_blur": (9, 2.5), "glass_blur": (0.4, 1, 2)}
    for name, numbers in (parameters | {"zoom_blur": (7, 0.01)}).items():
        np.testing.assert_allclose(CORRUPTIONS[name](plain, rng, *numbers), 0.5, atol=3e-3)
        assert CORRUPTIONS[name](point, rng, *numbers).max() < 0.95
    disc = blur.defocus_blur(point, rng, 4, 0.5)[0, :, :, 0]
    np.testing.assert_allclose(disc, disc.T, atol=1e-7)
    assert disc.sum() == pytest.approx(1, abs=1e-5)
    y, x = np.nonzero(disc > 1e-3)
    assert 4 <= np.hypot(y - 16, x - 16).max() <= 4 + 2**0.5


def test_motion_begins_at_the_pixel_and_goes_in_its_direction() -> None:
    point = np.zeros((2, 9, 9, 1), np.float32)
    point[:, 4, 4] = 1
    right, down = blur.moved(point, np.array([0.0, 90.0]), 3, 1)[..., 0]
    weights = np.exp(-(np.arange(5) ** 2) / 2)
    weights /= np.exp(-(np.arange(7) ** 2) / 2).sum()
    np.testing.assert_allclose(right[4, 4::-1], weights, atol=2e-5)
    np.testing.assert_allclose(down[4::-1, 4], weights, atol=2e-5)


def test_glass_shows_pixels_of_the_neighbourhood() -> None:
    slope = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(1, 32, 32, 1)
    places = blur._displaced(np.random.default_rng(0), 32, 32, 2, 1).reshape(32, 32)
    rows, columns = np.divmod(places, 32)
    y, x = np.mgrid[:32, :32]
    inside = np.s_[3:31, 3:31]
    assert (places != np.arange(1024).reshape(32, 32))[inside].mean() > 0.8
    # What a neighbour shows may have come from further away in the same round.
    assert np.abs(rows - y).mean() < 3
    assert np.abs(columns - x).mean() < 3
    assert (places == np.arange(1024).reshape(32, 32))[0].all()
    # A deviation of 0 blurs nothing.
    shuffled = blur.glass_blur(slope, np.random.default_rng(0), 0, 2, 1)
    expected = np.floor(slope.reshape(-1)[places] * 255 + 1e-3) / 255
    np.testing.assert_allclose(shuffled[0, :, :, 0], expected, atol=1e-6)


def test_brightness_raises_the_value_and_keeps_hue_and_saturation() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1, 6, 6, 3), np.uint8)
    images[0, 0, 0] = 0
    levels = images.astype(np.float32) / np.float32(255)
    brighter = weather.brightness(levels, rng, 0.3)
    before, after = (
        np.asarray(Image.fromarray(it[0]).convert("HSV"), int)
        for it in (images, np.rint(brighter * 255).astype(np.uint8))
    )
    np.testing.assert_allclose(after[..., 2], np.minimum(255, before[..., 2] + 76.5), atol=1)
    np.testing.assert_allclose(after[..., 1], before[..., 1], atol=4)
    grey = some_levels(1, (8, 8, 1))
    np.testing.assert_allclose(weather.brightness(grey, rng, 0.2), np.minimum(1, grey + 0.2))


def test_contrast_shrinks_the_deviation_around_the_same_mean() -> None:
    levels = some_levels()
    reduced = digital.contrast(levels, np.random.default_rng(0), 0.3)
    np.testing.assert_allclose(reduced.mean((1, 2)), levels.mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(reduced.std((1, 2)), 0.3 * levels.std((1, 2)), atol=1e-5)


def test_fog_is_no_brighter_than_the_image_and_snow_is_brighter() -> None:
    levels = some_levels(16)
    rng = np.random.default_rng(0)
    foggy = weather.fog(levels, rng, 1.5, 1.75)
    assert (foggy.max((1, 2, 3)) <= levels.max((1, 2, 3)) + 1e-6).all()
    assert (foggy.std((1, 2)) != levels.std((1, 2))).all()
    snowy = weather.snow(levels, rng, *parameters_of("CIFAR-10-C", "snow", 5))
    assert (snowy >= levels - 1e-6).all()


def test_frost_adds_pictures_with_the_colours_of_ice() -> None:
    ice = weather.draw_ice(np.random.default_rng(0), (400, 32, 32, 3), 0.2)
    red, green, blue = ice.mean((0, 1, 2))
    # Crops of photographs of frosted panes had 0.58, 0.66 and 0.70, and a deviation of 0.087.
    np.testing.assert_allclose((red, green, blue), (0.58, 0.66, 0.70), atol=0.03)
    assert ice.std((1, 2)).mean() == pytest.approx(0.087, abs=0.01)
    levels = some_levels()
    frosted = weather.frost(levels, np.random.default_rng(3), 0.75, 0.45, 0.2)
    drawn = weather.draw_ice(np.random.default_rng(3), levels.shape, 0.2)
    np.testing.assert_allclose(frosted, 0.75 * levels + 0.45 * drawn, atol=1e-6)


def test_elastic_transform_of_no_strength_changes_nothing() -> None:
    levels = some_levels(2, (24, 40, 3))
    same = digital.elastic_transform(levels, np.random.default_rng(0), 0, 0, 0)
    np.testing.assert_allclose(same, levels, atol=1e-5)
    moved = digital.elastic_transform(levels, np.random.default_rng(0), 0.1, 0.03, 0)
    assert np.abs(moved - levels).mean() > 0.005


def test_jpeg_and_pixels_are_those_of_pillow() -> None:
    images = some_images(2, (32, 32, 3))
    buffer = io.BytesIO()
    Image.fromarray(images[1]).save(buffer, "JPEG", quality=50, subsampling="4:2:0")
    np.testing.assert_array_equal(digital.compressed(images, 50)[1], Image.open(buffer))
    np.testing.assert_array_equal(corrupt(images, "jpeg_compression", 4)[1], Image.open(buffer))
    box = Image.Resampling.BOX
    small = Image.fromarray(images[0]).resize((24, 24), box)
    np.testing.assert_array_equal(corrupt(images, "pixelate", 4)[0], small.resize((32, 32), box))
