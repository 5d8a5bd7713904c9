import io

import numpy as np
import pytest
from PIL import Image

from service.explanation import COLORMAPS, Box, bounding_box, overlay, png
from service.images import View


def peak_at(row: int, column: int, size: int = 8) -> np.ndarray:
    cam = np.full((size, size), -1.0, np.float32)
    cam[row, column] = 4.0
    return cam


def test_the_box_surrounds_the_peak_in_upload_pixels() -> None:
    box = bounding_box(peak_at(2, 5), View(0, 0, 80, 80), (80, 80))
    # Half of 4 is crossed 0.4 cells from the centre: 6 of 8 * 10 / 8 pixels to each side.
    assert [box.left, box.top, box.right, box.bottom] == pytest.approx([51, 21, 59, 29], abs=1)


def test_the_box_agrees_with_brute_force(rng: np.random.Generator) -> None:
    cam = rng.normal(size=(4, 4)).astype(np.float32)
    box = bounding_box(cam, View(30, 10, 150, 150), (200, 170))
    fine = np.asarray(Image.fromarray(cam).resize((600, 600), Image.Resampling.BILINEAR))
    rows, columns = np.nonzero(fine > cam.max() / 2)
    expected = [
        30 + columns.min() / 4,
        10 + rows.min() / 4,
        30 + (columns.max() + 1) / 4,
        10 + (rows.max() + 1) / 4,
    ]
    # One position of the box's grid is 150 / 60 pixels.
    assert [box.left, box.top, box.right, box.bottom] == pytest.approx(expected, abs=2.6)


@pytest.mark.parametrize("shift", [0.0, -3.0])
def test_the_box_of_what_is_seen_agrees_with_brute_force(
    rng: np.random.Generator, shift: float
) -> None:
    """Of views that reach out of the upload on every side, with maps of either sign."""
    for _ in range(200):
        rows, columns = (int(size) for size in rng.integers(1, 9, 2))
        cam = (rng.normal(size=(rows, columns)) + shift).astype(np.float32)
        left, top = (int(at) for at in rng.integers(-40, 40, 2))
        view = View(left, top, columns * 15, rows * 15)  # a pixel a position
        upload = int(rng.integers(left + 5 if left > 0 else 5, 150)), int(rng.integers(45, 150))
        fine = np.asarray(
            Image.fromarray(cam).resize((columns * 15, rows * 15), Image.Resampling.BILINEAR)
        )
        x0, y0 = max(0, -left), max(0, -top)
        seen = fine[y0 : max(y0, upload[1] - top), x0 : max(x0, upload[0] - left)]
        if not seen.size or np.ptp(seen) < 1e-3:
            continue
        peak, least = seen.max(), seen.min()
        over = seen > (peak / 2 if peak > 0 else (peak + least) / 2)
        ys, xs = np.flatnonzero(over.any(1)), np.flatnonzero(over.any(0))
        box = bounding_box(cam, view, upload)
        assert [box.left, box.top, box.right, box.bottom] == pytest.approx(
            [left + x0 + xs[0], top + y0 + ys[0], left + x0 + xs[-1] + 1, top + y0 + ys[-1] + 1],
            abs=1.01,  # Pillow's float32 may put a position on the other side of the threshold
        )


def test_a_box_is_clipped_to_the_upload() -> None:
    box = bounding_box(peak_at(0, 0), View(-5, -5, 80, 80), (60, 60))
    assert (box.left, box.top) == (0, 0)
    assert box.right < 10
    constant = bounding_box(np.ones((4, 4), np.float32), View(-40, 10, 200, 100), (100, 120))
    assert constant == Box(0, 10, 100, 110)


@pytest.mark.parametrize("value", [3.0, 0.0, -2.0])
def test_a_constant_map_gives_all_that_the_network_sees(value: float) -> None:
    constant = np.full((8, 8), value, np.float32)
    assert bounding_box(constant, View(10, 0, 60, 60), (80, 60)) == Box(10, 0, 70, 60)


def test_a_map_without_a_positive_value_still_has_a_box_around_its_peak() -> None:
    box = bounding_box(peak_at(2, 5) - 9, View(0, 0, 80, 80), (80, 80))
    assert box.left > 45
    assert box.right < 65


@pytest.mark.parametrize("upload", [(1, 1), (1, 300), (300, 1)])
@pytest.mark.parametrize("view", [View(0, 0, 1, 1), View(-500, -500, 1000, 1000)])
def test_tiny_uploads_have_boxes_within_them(upload: tuple[int, int], view: View) -> None:
    box = bounding_box(peak_at(0, 0), view, upload)
    assert 0 <= box.left <= box.right <= upload[0]
    assert 0 <= box.top <= box.bottom <= upload[1]
    picture = overlay(Image.new("RGB", upload), peak_at(0, 0), view, opacity=1, colormap="jet")
    assert picture.size == upload


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


def test_opacity_mixes_upload_and_map() -> None:
    photo, cam, view = Image.new("RGB", (40, 40), "white"), peak_at(1, 1), View(0, 0, 40, 40)
    clear, half, full = (
        np.asarray(overlay(photo, cam, view, opacity=opacity, colormap="magma")).astype(int)
        for opacity in (0.0, 0.5, 1.0)
    )
    assert (clear == 255).all()
    assert np.abs(half - (clear + full) / 2).max() <= 1


def test_the_overlays_peak_is_where_the_maps_is() -> None:
    photo = Image.new("L", (160, 160), 0)
    picture = overlay(photo, peak_at(6, 1), View(0, 0, 160, 160), opacity=1, colormap="inferno")
    brightness = np.asarray(picture.convert("L"))
    row, column = np.unravel_index(brightness.argmax(), brightness.shape)
    assert abs(row - 130) <= 1
    assert abs(column - 30) <= 1


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("colormap", sorted(COLORMAPS))
def test_every_upload_and_colour_map_can_be_drawn(mode: str, colormap: str) -> None:
    picture = overlay(
        Image.new(mode, (9, 7)), peak_at(0, 0), View(1, 0, 7, 7), opacity=0.5, colormap=colormap
    )
    with Image.open(io.BytesIO(png(picture))) as decoded:
        assert decoded.size == (9, 7)
        np.testing.assert_array_equal(np.asarray(decoded), np.asarray(picture))
