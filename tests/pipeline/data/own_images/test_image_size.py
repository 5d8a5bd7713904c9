"""The side that suits a user's images."""

from pathlib import Path

import pytest
from PIL import Image

from pipeline.data.own_images.image_size import suitable_side


@pytest.mark.parametrize(
    ("sizes", "largest", "side"),
    [
        ([(28, 28)] * 3, 64, 32),
        ([(48, 40), (50, 41), (300, 200)], 64, 40),
        ([(400, 300)] * 2, 64, 64),
        ([(400, 300)] * 2, 224, 224),
        ([(200, 100)] * 2, 224, 96),
    ],
)
def test_side_is_the_median_of_the_shorter_sides(
    sizes: list[tuple[int, int]], largest: int, side: int, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        Image.new("RGB", size).save(path)
    (tmp_path / "broken.png").write_bytes(b"nothing")
    assert suitable_side([tmp_path / "broken.png", *paths], largest) == side


def test_unreadable_images_are_of_the_largest_side(tmp_path: Path) -> None:
    assert suitable_side([tmp_path / "gone.png"], 64) == 64
