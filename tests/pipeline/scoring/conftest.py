"""Fixtures of the tests of bulk scoring."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred digits in a folder a class, as PNG and JPEG of many sizes, and four bad files."""
    folder = tmp_path_factory.mktemp("digits")
    source = load_digits()
    for number, (pixels, label) in enumerate(zip(source.images[:100], source.target, strict=False)):
        image = Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8))
        image = image.resize((8 + number, 8 + number), Image.Resampling.BICUBIC)
        (folder / str(label)).mkdir(exist_ok=True)
        image.save(folder / str(label) / f"{number:03}.{('png', 'jpeg')[number % 2]}")
    (folder / "bad").mkdir()
    (folder / "bad" / "broken.jpg").write_bytes(b"no image")
    whole = (folder / "0" / "000.png").read_bytes()
    (folder / "bad" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "bad" / "gone.gif").symlink_to(folder / "nowhere")
    (folder / "zero.PNG").touch()
    (folder / "notes.txt").write_text("not an image, and not meant to be")
    return folder
