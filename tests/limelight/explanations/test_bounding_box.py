import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from limelight.explanations.bounding_box import Box, locate
from limelight.imaging.preprocessing import View


def edges(box: Box) -> list[float]:
    return [box.left, box.top, box.right, box.bottom]


def peak_at(row: int, column: int, size: int = 8) -> np.ndarray:
    cam = np.full((size, size), -1.0, np.float32)
    cam[row, column] = 4.0
    return cam


def test_the_box_surrounds_the_peak_in_upload_pixels() -> None:
    box, _ = locate(peak_at(2, 5), View(0, 0, 80, 80), (80, 80))
    # The map falls from 4 to -1 within 10 pixels, so it is at half of 4 after 4 pixels.
    assert edges(box) == [51, 21, 59, 29]


def test_box_of_a_peak_at_the_border_ends_at_the_border() -> None:
    box, _ = locate(peak_at(0, 7), View(100, 100, 80, 80), (300, 300))
    assert edges(box) == [171, 100, 180, 109]


def test_box_contains_all_peaks_above_the_threshold() -> None:
    cam = np.zeros((1, 5), np.float32)
    cam[0, 1], cam[0, 3] = 4, 3
    box, _ = locate(cam, View(0, 0, 50, 10), (50, 10))
    assert edges(box) == pytest.approx([10, 0, 35 + 10 / 3, 10], abs=0.005)


@pytest.mark.parametrize("shift", [0.0, -3.0])
@pytest.mark.parametrize("reach", ["inside", "out on every side"])
def test_the_box_agrees_with_brute_force(
    rng: np.random.Generator, shift: float, reach: str
) -> None:
    """Compares with SciPy's interpolation at eight points a pixel, including the cells' centres."""
    compared = 0
    for _ in range(200):
        rows, columns = (int(size) for size in rng.integers(1, 9, 2))
        cam = (rng.normal(size=(rows, columns)) + shift).astype(np.float32)
        if reach == "inside":
            left, top = (int(at) for at in rng.integers(0, 40, 2))
            upload = left + columns * 15 + 7, top + rows * 15
        else:
            left, top = (int(at) for at in rng.integers(-40, 40, 2))
            upload = max(left, 0) + int(rng.integers(5, 90)), max(top, 0) + int(rng.integers(5, 90))
        view = View(left, top, columns * 15, rows * 15)
        ends = (left, columns, upload[0]), (top, rows, upload[1])
        spans = [(max(at, 0), min(at + cells * 15, size)) for at, cells, size in ends]
        if any(first >= last for first, last in spans):
            continue
        x, y = (np.linspace(first, last, (last - first) * 8 + 1) for first, last in spans)
        places = np.meshgrid((y - top) / 15 - 0.5, (x - left) / 15 - 0.5, indexing="ij")
        seen = map_coordinates(cam.astype(np.float64), places, order=1, mode="nearest")
        if np.ptp(seen) < 1e-3:
            continue
        compared += 1
        peak, least = seen.max(), seen.min()
        over = seen > (peak / 2 if peak > 0 else (peak + least) / 2)
        ys, xs = y[over.any(1)], x[over.any(0)]
        box, _ = locate(cam, view, upload)
        assert edges(box) == pytest.approx([xs[0], ys[0], xs[-1], ys[-1]], abs=0.25)
    assert compared > 100


def test_box_is_clipped_to_the_upload() -> None:
    box, _ = locate(peak_at(0, 0), View(-5, -5, 80, 80), (60, 60))
    assert edges(box) == [0, 0, 4, 4]
    constant, _ = locate(np.ones((4, 4), np.float32), View(-40, 10, 200, 100), (100, 120))
    assert constant == Box(0, 10, 100, 110)


def test_peak_outside_the_upload_has_no_box() -> None:
    cam = np.zeros((1, 4), np.float32)
    cam[0, 0], cam[0, 3] = 9, 1
    box, peak = locate(cam, View(-20, 0, 40, 10), (20, 10))
    assert edges(box) == [10, 0, 20, 10]
    assert peak == 9  # the peak of the whole map


def test_peak_is_the_largest_value_as_float32(
    rng: np.random.Generator,
) -> None:
    cam = rng.normal(size=(7, 7)).astype(np.float32)
    _, peak = locate(cam, View(0, 0, 28, 28), (28, 28))
    assert peak.dtype == np.float32
    assert peak == cam.max()


@pytest.mark.parametrize("value", [3.0, 0.0, -2.0])
def test_box_of_a_constant_map_is_the_whole_view(value: float) -> None:
    constant = np.full((8, 8), value, np.float32)
    assert locate(constant, View(10, 0, 60, 60), (80, 60))[0] == Box(10, 0, 70, 60)


def test_map_without_positive_values_has_a_box_around_its_peak() -> None:
    box, _ = locate(peak_at(2, 5) - 9, View(0, 0, 80, 80), (80, 80))
    assert edges(box) == [50, 20, 60, 30]


@pytest.mark.parametrize("upload", [(1, 1), (1, 300), (300, 1)])
@pytest.mark.parametrize("view", [View(0, 0, 1, 1), View(-500, -500, 1000, 1000)])
def test_box_of_a_tiny_upload_is_inside_the_upload(upload: tuple[int, int], view: View) -> None:
    box, _ = locate(peak_at(0, 0), view, upload)
    assert 0 <= box.left <= box.right <= upload[0]
    assert 0 <= box.top <= box.bottom <= upload[1]
