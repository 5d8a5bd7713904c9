"""Synthetic scenes: the object, its box and the background."""

import numpy as np
import pytest
from PIL import Image

from pipeline.data.synthetic.scenes import background, make_scene

RGB = np.random.default_rng(5).integers(0, 256, (32, 32, 3), np.uint8)


def box_slices(box: tuple[float, float, float, float]) -> tuple[slice, slice]:
    left, top, right, bottom = map(int, box)
    return slice(top, bottom), slice(left, right)


@pytest.mark.parametrize(("side", "size"), [(64, 256), (96, 256), (40, 41), (256, 256)])
@pytest.mark.parametrize("channels", [1, 3])
def test_object_fills_its_box_inside_the_scene(side: int, size: int, channels: int) -> None:
    image = RGB[:, :, :channels]
    scene = make_scene(image, np.random.default_rng(1), side=side, size=size, feather=0)
    box = scene.box
    assert scene.image_hwc.shape == (size, size, channels)
    assert scene.image_hwc.dtype == np.uint8
    assert 0 <= box.left < box.right == box.left + side <= size
    assert 0 <= box.top < box.bottom == box.top + side <= size
    pixels = image[:, :, 0] if channels == 1 else image
    enlarged = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
    shown = scene.image_hwc[box_slices((box.left, box.top, box.right, box.bottom))]
    np.testing.assert_array_equal(shown, enlarged.reshape(side, side, channels))


def test_feathered_object_fades_towards_its_edges() -> None:
    white, size, side = np.full((8, 8, 1), 255, np.uint8), 100, 50
    # The generator gives the background first: the same one without an object.
    behind = background(np.random.default_rng(2), size=size, channels=1).astype(float)
    scene = make_scene(white, np.random.default_rng(2), side=side, size=size, feather=0.2)
    place = box_slices((scene.box.left, scene.box.top, scene.box.right, scene.box.bottom))
    opacity = (scene.image_hwc[place] - behind[place]) / (255 - behind[place])
    middle = opacity[25, :, 0]
    np.testing.assert_allclose(middle[10:40], 1, atol=0.01)
    np.testing.assert_allclose(middle[:10], (np.arange(10) + 0.5) / 10, atol=0.02)
    np.testing.assert_allclose(middle, middle[::-1], atol=0.02)


def test_outside_the_box_is_only_background() -> None:
    behind = background(np.random.default_rng(3), size=128, channels=3)
    scene = make_scene(RGB, np.random.default_rng(3), side=48, size=128)
    outside = np.ones((128, 128), bool)
    box = scene.box
    outside[box_slices((box.left, box.top, box.right, box.bottom))] = False
    np.testing.assert_array_equal(scene.image_hwc[outside], behind[outside])
    assert (scene.image_hwc[~outside] != behind[~outside]).mean() > 0.9


def test_scene_depends_only_on_the_generator() -> None:
    def make(seed: int) -> bytes:
        scene = make_scene(RGB, np.random.default_rng(seed), side=64, size=256)
        return scene.image_hwc.tobytes() + repr(scene.box).encode()

    assert make(7) == make(7)
    assert make(7) != make(8)


def test_object_can_have_any_position() -> None:
    rng = np.random.default_rng(0)
    places = [make_scene(RGB, rng, side=60, size=64).box for _ in range(60)]
    assert {box.left for box in places} == {box.top for box in places} == {0, 1, 2, 3, 4}


def test_backgrounds_are_structured_and_different() -> None:
    rng = np.random.default_rng(4)
    made = [background(rng, size=128, channels=3).astype(float) for _ in range(20)]
    assert all(levels.std() > 5 for levels in made)
    assert np.std([levels.mean() for levels in made]) > 10
    # Some are rough and some smooth: the differences between neighbours vary tenfold.
    grains = [np.abs(np.diff(levels, axis=1)).mean() for levels in made]
    assert max(grains) > 5 * min(grains)


@pytest.mark.parametrize(
    ("shape", "side", "feather", "words"),
    [
        ((32, 24, 3), 64, 0.1, "square, not 24 x 32"),
        ((32, 32, 3), 257, 0.1, "does not fit into a scene of 256"),
        ((32, 32, 3), 0, 0.1, "does not fit into a scene of 256"),
        ((32, 32, 3), 64, 0.6, "must be 0 to 0.5"),
    ],
)
def test_invalid_arguments_are_rejected(
    shape: tuple[int, int, int], side: int, feather: float, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        make_scene(
            np.zeros(shape, np.uint8),
            np.random.default_rng(0),
            side=side,
            size=256,
            feather=feather,
        )
