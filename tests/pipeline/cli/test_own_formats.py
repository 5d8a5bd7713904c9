"""TIFF, AVIF and HEIC on the command line: predicted and explained in this process."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from limelight.imaging.formats import FORMATS
from tests.own_images import HEIC_START, OWN, encoded
from tests.pipeline.cli.running import limelight
from tests.serving_kit import REPOSITORY


@pytest.mark.parametrize("name", OWN)
def test_file_of_ones_own_is_predicted_and_explained(name: str, tmp_path: Path) -> None:
    with Image.open(REPOSITORY / "examples" / "seven.png") as image:
        size, body = image.size, encoded(image.convert("L").resize(image.size), name)
    file = f"seven{FORMATS[name].suffixes[0]}"
    (tmp_path / file).write_bytes(body)
    done = limelight("predict", file, "--model", "digits", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["label"] == "7"
    drawn = limelight("explain", file, "-o", "map.png", "--model", "digits", cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.size == size


def test_missing_decoder_is_named_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(sys.modules, "pillow_heif.HeifImagePlugin", raising=False)
    (tmp_path / "photo.heic").write_bytes(HEIC_START)
    done = limelight("predict", "photo.heic", "--model", "digits", cwd=tmp_path)
    assert done.returncode == 1
    assert "photo.heic: the decoder of HEIC images is not installed" in done.stderr
    assert "pip install 'limelight[heic]'" in done.stderr
