"""Crops, flips, cutout and CutMix, compared with numpy and with an exhaustive search."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.training.augmentation.augmenter import Augmenter
from pipeline.training.augmentation.geometry import affine, pad_reflect
from pipeline.training.augmentation.randaugment import KINDS, draw_operations, randaugment
from pipeline.training.recipe import Augmentation
from pipeline.training.resident_images import ResidentImages


def _images() -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (6, 9, 7, 3), dtype=np.uint8))


def _augmenter(images: torch.Tensor, **choices: object) -> Augmenter:
    choice = Augmentation.model_validate(choices)
    paint = images.float().mean((0, 1, 2)).round().to(torch.uint8)
    resident = ResidentImages(images.numpy(), torch.device("cpu"))
    return Augmenter(resident, choice, torch.Generator().manual_seed(0), paint=paint)


def _random(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_padding_equals_numpy_reflection(padding: int) -> None:
    images = _images()
    expected = np.pad(images, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)), mode="reflect")
    np.testing.assert_array_equal(pad_reflect(images, padding), expected)


def test_padding_wider_than_the_image_is_rejected() -> None:
    with pytest.raises(ValueError, match="padding 7 needs images of more than 7 pixels"):
        pad_reflect(_images(), 7)


@pytest.mark.parametrize("flip", ["none", "random", "alternating"])
def test_every_crop_is_a_window_of_its_image_or_its_mirror(flip: str) -> None:
    images, padding = _images(), 2
    padded = pad_reflect(images, padding)
    indices = torch.randint(len(images), (64,), generator=_random())
    crops = _augmenter(images, pad=padding, flip=flip).draw(indices, 1, _random()).images_nhwc
    mirrored, corners = 0, set()
    for crop, index in zip(crops, indices, strict=True):
        windows = {
            (top, left): padded[index, top : top + 9, left : left + 7]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
        }
        straight = [at for at, window in windows.items() if torch.equal(crop, window)]
        flipped = [at for at, window in windows.items() if torch.equal(crop, window.flip(1))]
        assert len(straight + flipped) == 1
        corners.update(straight + flipped)
        mirrored += bool(flipped)
    assert {top for top, _ in corners} == {left for _, left in corners} == set(range(5))
    assert (mirrored == 0) if flip == "none" else (10 < mirrored < 54)


def test_without_options_images_are_unchanged() -> None:
    images = _images()
    indices = torch.tensor([4, 0])
    drawn = _augmenter(images).draw(indices, 1, _random())
    assert torch.equal(drawn.images_nhwc, images[indices])
    assert drawn.mixture is None


def _is_mirrored(images: torch.Tensor, drawn: torch.Tensor) -> list[bool]:
    assert all(
        torch.equal(crop, image) != torch.equal(crop, image.flip(1))
        for image, crop in zip(images, drawn, strict=True)
    )
    return [not torch.equal(crop, image) for image, crop in zip(images, drawn, strict=True)]


@pytest.mark.parametrize("epoch", [1, 2, 7])
def test_alternating_flip_shows_each_image_both_ways_in_two_epochs(epoch: int) -> None:
    images = _images().repeat(20, 1, 1, 1)
    augmenter = _augmenter(images, flip="alternating")
    everything = torch.arange(len(images))
    first = _is_mirrored(images, augmenter.draw(everything, epoch, _random(1)).images_nhwc)
    order = torch.randperm(len(images), generator=_random())
    second = _is_mirrored(images[order], augmenter.draw(order, epoch + 1, _random(2)).images_nhwc)
    assert [first[index] for index in order] == [not mirrored for mirrored in second]
    assert 0.3 < np.mean(first) < 0.7


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_cutout_covers_one_square_with_the_mean_colour(side: int) -> None:
    images = torch.full((4000, 9, 7, 2), 40, dtype=torch.uint8)
    images[:, :, :, 1] = 100
    images[:, :, 0] = 90  # one pixel column of 7
    mean = images.float().mean((0, 1, 2)).round()
    assert mean.tolist() == [47, 99]
    indices = torch.arange(len(images))
    drawn = _augmenter(images, cutout=side).draw(indices, 1, _random()).images_nhwc
    painted = (drawn == mean).all(3)
    assert torch.equal(drawn[~painted], images[~painted])
    seen = {_rectangle(mask) for mask in painted}
    # The centre can be at every position of the image; squares are clipped at the edges.
    assert seen == {
        (max(0, top), min(9, top + side), max(0, left), min(7, left + side))
        for top in range(-(side // 2), 9 - side // 2)
        for left in range(-(side // 2), 7 - side // 2)
    }


def _rectangle(mask: torch.Tensor) -> tuple[int, int, int, int]:
    """First row, last + 1, first column, last + 1 of a mask (H, W) that is a whole rectangle."""
    rows, columns = mask.any(1).nonzero().ravel(), mask.any(0).nonzero().ravel()
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    assert mask[top:bottom, left:right].all()
    assert mask.sum() == (bottom - top) * (right - left)
    return int(top), int(bottom), int(left), int(right)


def _plain(count: int = 200, size: tuple[int, int] = (32, 24)) -> torch.Tensor:
    """Images of one value each: their own number."""
    values = torch.arange(count, dtype=torch.uint8)[:, None, None, None]
    return values.expand(count, *size, 1).contiguous()


def test_mixture_is_an_image_with_one_box_of_its_partner() -> None:
    images = _plain()
    augmenter = _augmenter(images, cutmix=0.7, cutout=9)
    indices = torch.randperm(len(images), generator=_random())[:150]
    drawn = augmenter.draw(indices, 1, _random())
    paint = images.float().mean().round()
    assert drawn.mixture is not None
    assert set(drawn.mixture.partners.tolist()) == set(indices.tolist())
    mixed = painted = 0
    for image, own, partner, share in zip(
        drawn.images_nhwc[..., 0], indices, *drawn.mixture, strict=True
    ):
        values = set(image.unique().tolist()) - {int(own)}
        if own in (partner, paint) or partner == paint:
            continue
        assert share == (1 - (image == partner).float().mean())
        # An image has a box of another or a covered square, never both.
        assert values in ({int(partner)}, {int(paint)}, set())
        if values:
            _rectangle(image != own)
        mixed += values == {int(partner)}
        painted += values == {int(paint)}
    assert 85 < mixed < 120
    assert 20 < painted < 60


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_cutmix_mixes_the_requested_share_of_images(share: float) -> None:
    images = _plain(1, (32, 32)).expand(8000, 32, 32, 1)
    mixture = _augmenter(images, cutmix=share).draw(torch.arange(8000), 1, _random()).mixture
    if not share:
        assert mixture is None
        return
    assert mixture is not None
    # One in about 300 boxes is smaller than half a pixel.
    assert (mixture.own < 1).float().mean() == pytest.approx(share, abs=0.02)


def test_boxes_are_as_large_as_in_the_paper() -> None:
    # Yun et al., 2019, algorithm A1 with alpha = 1, in numpy.
    rng, size, count = np.random.default_rng(0), 32, 40_000
    side = size * np.sqrt(1 - rng.uniform(size=count))
    edges = []
    for _ in range(2):
        centre = rng.uniform(0, size, count)
        edges.append(np.clip(centre + side / 2, 0, size) - np.clip(centre - side / 2, 0, size))
    expected = 1 - edges[0] * edges[1] / size**2
    images = _plain(1, (size, size)).expand(count, size, size, 1)
    mixture = _augmenter(images, cutmix=1.0).draw(torch.arange(count), 1, _random()).mixture
    assert mixture is not None
    at = np.linspace(0.05, 0.95, 10)
    np.testing.assert_allclose(np.quantile(mixture.own, at), np.quantile(expected, at), atol=0.015)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_parts_of_several_processes_make_up_the_whole_batch(processes: int) -> None:
    augmenter = _augmenter(
        _images(), pad=2, flip="random", cutout=3, cutmix=0.5, mixup=0.3, randaugment=0.5
    )
    indices = torch.arange(6)
    whole = augmenter.draw(indices, 1, _random())
    for rank in range(processes):
        part = slice(rank, None, processes)
        drawn = augmenter.draw(indices, 1, _random(), part)
        assert torch.equal(drawn.images_nhwc, whole.images_nhwc[part])
        assert drawn.mixture is not None
        assert whole.mixture is not None
        for piece, all_of_it in zip(drawn.mixture, whole.mixture, strict=True):
            assert torch.equal(piece, all_of_it[part])


def test_drawing_a_part_advances_the_generator_like_the_whole() -> None:
    augmenter = _augmenter(
        _images(), pad=2, flip="random", cutout=3, cutmix=0.5, mixup=0.3, randaugment=0.5
    )
    one, other = _random(), _random()
    augmenter.draw(torch.arange(6), 1, one)
    augmenter.draw(torch.arange(6), 1, other, slice(1, None, 2))
    assert torch.equal(one.get_state(), other.get_state())


def test_affine_map_of_strength_zero_changes_nothing() -> None:
    images = _images()
    assert torch.equal(affine(images, torch.zeros(3, len(images))), images)


def test_affine_map_equals_pillow() -> None:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (5, 5), np.uint8))
    image = np.array(small.resize((31, 31), Image.Resampling.BICUBIC))
    turned = affine(torch.from_numpy(image)[None, :, :, None], torch.tensor([[1.0], [0.0], [0.0]]))
    expected = Image.fromarray(image).rotate(20, Image.Resampling.BILINEAR)
    middle = np.s_[8:23, 8:23]
    ours = turned[0, :, :, 0].numpy()[middle].astype(int)
    np.testing.assert_allclose(ours, np.asarray(expected)[middle].astype(int), atol=2)
    zoomed = affine(torch.from_numpy(image)[None, :, :, None], torch.tensor([[0.0], [1.0], [0.0]]))
    assert np.abs(zoomed[0, 15, 15, 0].item() - int(image[15, 15])) <= 1
    assert zoomed[0, 15, 27, 0].item() == pytest.approx(int(image[15, 25]), abs=1)


@pytest.mark.parametrize("shape", [(96, 96), (32, 96), (96, 32)])
def test_affine_map_turns_images_of_any_shape_by_the_same_angle(shape: tuple[int, int]) -> None:
    height, width = shape
    rows, columns = np.mgrid[:height, :width]
    middle = (height - 1) / 2, (width - 1) / 2
    bar = 255 * np.exp(-((rows - middle[0]) ** 2) / 8)
    image = torch.from_numpy(bar.astype(np.uint8))[None, :, :, None]
    turned = affine(image, torch.tensor([[1.0], [0.0], [0.0]]))[0, :, :, 0].numpy()
    near = np.abs(columns - middle[1]) < 12
    y, x = (rows - middle[0])[near], (columns - middle[1])[near]
    weights = turned[near].astype(float)
    slope = (weights * x * y).sum() / (weights * x * x).sum()
    assert abs(math.degrees(math.atan(slope))) == pytest.approx(20, abs=1.5)


def test_weak_randaugment_is_accepted() -> None:
    images = _images()
    for kind in range(KINDS):
        drawn = torch.ones(4, len(images), dtype=torch.int64)
        drawn[0] = drawn[2] = kind
        assert randaugment(images, drawn, 0.003).shape == images.shape


def test_corruptions_keep_the_images_before_and_name_the_outliers() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), np.uint8))
    augmenter = _augmenter(images, corruptions=0.5, outliers=0.25)
    drawn = augmenter.draw(torch.arange(64), 1, _random())
    assert drawn.before_nhwc is not None
    assert drawn.outliers is not None
    assert torch.equal(drawn.before_nhwc, images)
    changed = (drawn.images_nhwc != images).flatten(1).any(1)
    assert 8 <= int(drawn.outliers.sum()) <= 24
    assert 40 <= int(changed.sum()) <= 56
    assert changed[drawn.outliers].all()
    whole = augmenter.draw(torch.arange(64), 1, _random(7)).images_nhwc
    parts = [
        augmenter.draw(torch.arange(64), 1, _random(7), part).images_nhwc
        for part in (slice(0, 64, 2), slice(1, 64, 2))
    ]
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), whole)


def test_mixup_blends_the_requested_share_with_a_partner() -> None:
    images = _images().repeat(400, 1, 1, 1)
    order = torch.arange(len(images))
    drawn = _augmenter(images, mixup=0.4).draw(order, 1, _random())
    assert drawn.mixture is not None
    own, partners = drawn.mixture.own, images[drawn.mixture.partners]
    assert float((own < 1).double().mean()) == pytest.approx(0.4, abs=0.03)
    # Uniform shares, which are the paper's with alpha = 1.
    assert float(own[own < 1].mean()) == pytest.approx(0.5, abs=0.03)
    weight = own[:, None, None, None].double()
    expected = weight * images + (1 - weight) * partners
    np.testing.assert_allclose(drawn.images_nhwc, expected, atol=0.51)


def test_image_with_a_box_is_not_blended() -> None:
    images = _images().repeat(400, 1, 1, 1)
    augmenter = _augmenter(images, cutmix=0.5, mixup=0.5)
    mixture = augmenter.draw(torch.arange(len(images)), 1, _random()).mixture
    assert mixture is not None
    with_box = _augmenter(images, cutmix=0.5).draw(torch.arange(len(images)), 1, _random()).mixture
    assert with_box is not None
    boxed = with_box.own < 1
    assert torch.equal(mixture.own[boxed], with_box.own[boxed])
    assert float((mixture.own < 1).double().mean()) > 0.9


def test_shares_of_mixtures_above_one_are_rejected() -> None:
    with pytest.raises(ValueError, match="their sum is above 1"):
        Augmentation(cutmix=0.7, mixup=0.4)


def test_randaugment_makes_two_operations_of_its_kinds_on_each_image() -> None:
    images = _images().repeat(100, 1, 1, 1)
    drawn = draw_operations(len(images), _random())
    assert {int(kind) for row in (0, 2) for kind in drawn[row]} == set(range(KINDS))
    assert {int(sign) for row in (1, 3) for sign in drawn[row]} == {0, 1}
    alone = torch.cat(
        [randaugment(images[at : at + 1], drawn[:, at : at + 1], 0.5) for at in range(60)]
    )
    assert torch.equal(randaugment(images, drawn, 0.5)[:60], alone)
    identity = torch.zeros(4, len(images), dtype=torch.int64)
    assert torch.equal(randaugment(images, identity, 0.5), images)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_randaugment_operation_but_the_first_changes_images(channels: int) -> None:
    rng = np.random.default_rng(3)
    images = torch.from_numpy(rng.integers(60, 180, (4, 40, 30, channels), dtype=np.uint8))
    for kind in range(1, KINDS):
        drawn = torch.tensor([[kind], [1], [0], [0]]).expand(4, 4)
        changed = not torch.equal(randaugment(images, drawn, 0.6), images)
        # Saturation means nothing for grey images.
        assert changed == (kind < KINDS - 1 or channels == 3), kind


def test_brightness_of_randaugment_is_that_of_its_strength() -> None:
    grey = torch.full((1, 4, 4, 3), 100, dtype=torch.uint8)
    brightness = torch.tensor([[10], [1], [0], [0]])
    assert int(randaugment(grey, brightness, 0.5)[0, 0, 0, 0]) == pytest.approx(145, abs=1)
