"""The convolution by hand, beside the numbers of fastbook's chapter 13 and torch's `conv2d`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from pipeline.errors import PipelineError
from pipeline.lessons.by_hand import convolve_picture, read_picture
from pipeline.lessons.convolution import (
    KERNELS,
    apply_kernel,
    as_matrix,
    convolve,
    kernel_for,
    output_size,
)
from tests.pipeline.cli.running import limelight
from tests.serving_kit import REPOSITORY

THREE = REPOSITORY / "examples" / "three.png"
CAT = REPOSITORY / "examples" / "cat.png"
GEOMETRIES = [(0, 1), (1, 1), (1, 2), (2, 3)]


def test_activations_of_the_top_edge_are_the_chapters() -> None:
    three, top_edge = read_picture(THREE), kernel_for("top-edge", 1)
    # (im3_t[4:7,6:9] * top_edge).sum() and (im3_t[7:10,17:20] * top_edge).sum()
    assert apply_kernel(three, top_edge, 4, 6) == 762
    assert apply_kernel(three, top_edge, 7, 17) == -29
    assert convolve(three, top_edge).shape == (26, 26)


def test_top_edge_lights_up_above_the_strokes_and_is_dark_below_them() -> None:
    lit = convolve(read_picture(THREE), kernel_for("top-edge", 1))
    # The upper bar of the 3 lies in rows 5 to 7, columns 4 to 14.
    assert (lit[4, 4:12] > 700).all()
    assert (lit[6, 4:12] < -600).all()
    # Beside the digit there is no edge.
    assert (lit[:, 23:] == 0).all()
    assert lit.max() == 762
    left = convolve(read_picture(THREE), kernel_for("left-edge", 1))
    # The bar begins at column 3; inside it there is no left edge.
    assert left[5, 2] == 370
    assert (abs(left[5, 4:12]) < 100).all()


@pytest.mark.parametrize(("padding", "stride"), GEOMETRIES)
@pytest.mark.parametrize("side", [1, 3, 5])
def test_every_location_is_the_kernel_applied_there(
    side: int, padding: int, stride: int, rng: np.random.Generator
) -> None:
    image, kernel = rng.normal(size=(2, 7, 9)), rng.normal(size=(2, side, side))
    whole = convolve(image, kernel, padding=padding, stride=stride)
    one_by_one = np.array(
        [
            [
                apply_kernel(image, kernel, row, column, padding=padding, stride=stride)
                for column in range(whole.shape[1])
            ]
            for row in range(whole.shape[0])
        ]
    )
    np.testing.assert_allclose(whole, one_by_one, atol=1e-12)


@pytest.mark.parametrize(("padding", "stride"), GEOMETRIES)
def test_output_has_the_size_of_the_formula(padding: int, stride: int) -> None:
    for size, side in ((28, 3), (29, 3), (28, 5), (7, 7), (9, 2)):
        layer = torch.nn.Conv2d(1, 1, side, stride, padding)
        expected = layer(torch.zeros(1, 1, size, size)).shape[2]
        assert output_size(size, side, padding=padding, stride=stride) == expected
        image, kernel = np.zeros((1, size, size)), np.zeros((1, side, side))
        shape = convolve(image, kernel, padding=padding, stride=stride).shape
        assert shape == (expected, expected)


@pytest.mark.parametrize(("padding", "stride"), GEOMETRIES)
def test_convolution_equals_one_matrix_product(
    padding: int, stride: int, rng: np.random.Generator
) -> None:
    image, kernel = rng.normal(size=(3, 8, 6)), rng.normal(size=(3, 3, 3))
    matrix = as_matrix(kernel, 8, 6, padding=padding, stride=stride)
    whole = convolve(image, kernel, padding=padding, stride=stride)
    np.testing.assert_allclose(matrix @ image.ravel(), whole.ravel(), atol=1e-12)


def test_rows_of_the_matrix_share_the_kernels_weights_and_are_zero_elsewhere() -> None:
    matrix = as_matrix(np.arange(1.0, 5.0).reshape(1, 2, 2), 3, 3)
    # The picture of the chapter: a 2 x 2 kernel over 3 x 3 pixels.
    assert matrix.tolist() == [
        [1, 2, 0, 3, 4, 0, 0, 0, 0],
        [0, 1, 2, 0, 3, 4, 0, 0, 0],
        [0, 0, 0, 1, 2, 0, 3, 4, 0],
        [0, 0, 0, 0, 1, 2, 0, 3, 4],
    ]


@pytest.mark.parametrize(("padding", "stride"), GEOMETRIES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("picture", [THREE, CAT], ids=["grey", "colour"])
def test_convolution_equals_conv2d(picture: Path, kernel: str, padding: int, stride: int) -> None:
    image = read_picture(picture) / 255
    weights = kernel_for(kernel, len(image))
    expected = F.conv2d(
        torch.from_numpy(image[None]),
        torch.from_numpy(weights[None]),
        padding=padding,
        stride=stride,
    )
    found = convolve(image, weights, padding=padding, stride=stride)
    np.testing.assert_allclose(found, expected[0, 0], rtol=0, atol=1e-6)


def test_map_of_a_colour_image_is_the_sum_of_its_channels() -> None:
    cat = read_picture(CAT)
    assert cat.shape == (3, 300, 451)
    kernel = np.stack([kernel_for(name, 1)[0] for name in ("top-edge", "left-edge", "diagonal-1")])
    parts = [convolve(cat[[it]], kernel[[it]]) for it in range(3)]
    np.testing.assert_allclose(convolve(cat, kernel), np.sum(parts, axis=0))
    found = convolve_picture(cat, kernel)
    np.testing.assert_allclose(found.channels_chw, parts)
    assert abs(found.output[found.row, found.column]) == np.abs(found.output).max()


@pytest.mark.parametrize("at", [None, (0, 0), (148, 225)])
def test_matrix_of_a_large_picture_is_that_of_the_part_around_the_activation(
    at: tuple[int, int] | None,
) -> None:
    found = convolve_picture(
        read_picture(CAT), kernel_for("top-edge", 3), padding=1, stride=2, at=at
    )
    assert found.part().shape == (3, 28, 28)
    rows, columns = found.under
    seen = found.image_chw[:, rows.start : rows.stop - 1, columns.start : columns.stop - 1]
    windows = np.lib.stride_tricks.sliding_window_view(found.part(), seen.shape)
    assert (windows == seen).all(axis=(-3, -2, -1)).any()
    assert found.matrix_difference() < 1e-9
    assert found.conv2d_difference() < 1e-9


def test_kernel_of_a_file_has_one_block_for_each_channel(tmp_path: Path) -> None:
    file = tmp_path / "kernel.txt"
    file.write_text("0, 1\n2, -3\n")
    assert kernel_for(str(file), 1).tolist() == [[[0, 1], [2, -3]]]
    assert kernel_for(str(file), 3).tolist() == [[[0, 1], [2, -3]]] * 3
    file.write_text("1\n\n2\r\n \r\n3\n")
    assert kernel_for(str(file), 3).tolist() == [[[1]], [[2]], [[3]]]
    with pytest.raises(PipelineError, match="has kernels for 3 channels, and the image has 1"):
        kernel_for(str(file), 1)


@pytest.mark.parametrize("text", ["", "1 2\n3", "one two", "1 nan", "1 2\n\n3"])
def test_file_that_is_no_kernel_is_rejected(text: str, tmp_path: Path) -> None:
    file = tmp_path / "kernel.txt"
    file.write_text(text)
    with pytest.raises(PipelineError, match=r"is not a kernel.*write a row of numbers a line"):
        kernel_for(str(file), 1)


def test_command_prints_the_chapters_numbers_and_draws_a_picture(tmp_path: Path) -> None:
    done = limelight("convolve", str(THREE), "--at", "4", "6", "--out", "a/map.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "(28 + 2 * 0 - 3) // 1 + 1 = 26" in done.stdout
    assert "142 155 246  *   0  0  0  = 762" in done.stdout
    assert "676 x 784, whose rows share 9 weights; 99.2% of it is zero" in done.stdout
    with Image.open(tmp_path / "a" / "map.png") as picture:
        assert picture.width > 1000
        red, _, blue = np.moveaxis(np.asarray(picture.convert("RGB")).astype(int), 2, 0)
    assert ((red - blue) > 60).sum() > 10_000  # the lit edges, and the kernel's last row


def test_command_shows_each_channel_of_a_colour_image(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("1\n\n-1\n\n0")
    done = limelight(
        "convolve", str(CAT), "--kernel", "own.txt", "--at", "5", "5", "--stride", "2",
        "--padding", "1", "--out", "map.svg", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    red, green, _ = (int(it) for it in read_picture(CAT)[:, 9, 9])
    assert f"sum of the channels: {red} + {-green} + 0 = {red - green}" in done.stdout
    drawn = (tmp_path / "map.svg").read_text()
    assert all(word in drawn for word in ("red pixels", "green pixels", "blue pixels"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing.png",), "cannot be read"),
        ((str(THREE), "--kernel", "sobel"), "no kernel 'sobel'; there are: top-edge, left-edge"),
        ((str(THREE), "--at", "26", "0"), "no row 26, column 0 in an output of 26 x 26"),
        ((str(THREE), "--kernel", "wide.txt"), "does not fit into 28 pixels with a padding of 0"),
        ((str(THREE), "--out", "map.gif"), "a figure is written as .svg or .png"),
    ],
)
def test_command_says_what_is_wrong(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    (tmp_path / "wide.txt").write_text("1 " * 29)
    done = limelight("convolve", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert words in done.stderr
