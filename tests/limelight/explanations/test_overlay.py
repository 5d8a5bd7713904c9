import io

import numpy as np
import pytest
from PIL import Image

from limelight.explanations.overlay import COLORMAPS, overlay, png
from limelight.imaging.preprocessing import View


def peak_at(row: int, column: int, size: int = 8) -> np.ndarray:
    cam = np.full((size, size), -1.0, np.float32)
    cam[row, column] = 4.0
    return cam


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
@pytest.mark.parametrize("view", [View(0, 0, 1, 1), View(-500, -500, 1000, 1000)])
def test_overlay_of_a_tiny_upload_has_its_size(size: tuple[int, int], view: View) -> None:
    picture = overlay(Image.new("RGB", size), peak_at(0, 0), view, opacity=1, colormap="jet")
    assert picture.size == size


def test_an_overlay_has_the_uploads_size_and_tints_only_what_the_network_sees() -> None:
    photo = Image.new("RGB", (60, 40), (10, 20, 30))
    picture = overlay(photo, peak_at(4, 4), View(10, 0, 40, 40), opacity=1, colormap="viridis")
    pixels = np.asarray(picture)
    assert picture.size == photo.size
    assert (pixels[:, :10] == [10, 20, 30]).all()
    assert (pixels[:, 50:] == [10, 20, 30]).all()
    assert not (pixels[:, 10:50] == [10, 20, 30]).all(2).any()
    assert pixels[22, 32].tolist() == pytest.approx([0xFD, 0xE7, 0x25], abs=25)  # the peak's cell
    assert pixels[0, 10].tolist() == [0x44, 0x01, 0x54]  # negative: the lowest colour


def test_opacity_blends_upload_and_map() -> None:
    photo, cam, view = Image.new("RGB", (40, 40), "white"), peak_at(1, 1), View(0, 0, 40, 40)
    clear, half, full = (
        np.asarray(overlay(photo, cam, view, opacity=opacity, colormap="magma")).astype(int)
        for opacity in (0.0, 0.5, 1.0)
    )
    assert (clear == 255).all()
    assert np.abs(half - (clear + full) / 2).max() <= 1


def test_brightest_point_of_the_overlay_is_at_the_maps_peak() -> None:
    photo = Image.new("L", (160, 160), 0)
    picture = overlay(photo, peak_at(6, 1), View(0, 0, 160, 160), opacity=1, colormap="inferno")
    brightness = np.asarray(picture.convert("L"))
    row, column = np.unravel_index(brightness.argmax(), brightness.shape)
    assert abs(row - 130) <= 1
    assert abs(column - 30) <= 1


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("colormap", sorted(COLORMAPS))
def test_overlay_supports_every_image_mode_and_colormap(mode: str, colormap: str) -> None:
    picture = overlay(
        Image.new(mode, (9, 7)), peak_at(0, 0), View(1, 0, 7, 7), opacity=0.5, colormap=colormap
    )
    with Image.open(io.BytesIO(png(picture))) as decoded:
        assert decoded.size == (9, 7)
        np.testing.assert_array_equal(np.asarray(decoded), np.asarray(picture))


@pytest.mark.parametrize(
    "view", [View(0, 0, 90, 70), View(-10.5, 8.3, 70, 50), View(3, -20, 99, 99)]
)
def test_overlay_in_strips_is_that_of_the_whole_picture(
    view: View, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    photo = Image.fromarray(rng.integers(0, 256, (70, 90, 3), np.uint8))
    cam = rng.normal(size=(5, 7)).astype(np.float32)
    whole = overlay(photo, cam, view, opacity=0.6, colormap="turbo")
    monkeypatch.setattr("limelight.explanations.overlay.WHOLE_PIXELS", 200)
    striped = overlay(photo, cam, view, opacity=0.6, colormap="turbo")
    difference = np.abs(np.asarray(striped).astype(int) - np.asarray(whole))
    assert difference.max() <= 4  # a palette index more or less
    assert difference.mean() < 0.1
