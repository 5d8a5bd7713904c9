"""The pictures of `docs/lessons.md`, made by the commands that the text names.

`python -m bench.lesson_pictures` wants the runs of `limelight ladder simple-cnn simple-cnn-bn` and
of `limelight train mnist --out runs/mnist`. The report is photographed by Debian's Chromium.
"""

import argparse
import io
import subprocess
import sys
from pathlib import Path

from PIL import Image

from pipeline.report.history import read_history
from pipeline.report.page import draw_layer

CHROMIUM = "chromium"
DIMENSIONS = {
    "simple-cnn-constant": "simple-cnn-constant-0.06-batches-of-512",
    "simple-cnn": "simple-cnn",
    "simple-cnn-bn": "simple-cnn-bn-1-epoch",
}
"""Pictures, and the ladder's runs that they show."""


def draw_dimensions(run: Path, picture: Path) -> None:
    """Every layer's colorful dimension, side by side."""
    drawn = []
    for layer in read_history(run).layers:
        stream = io.BytesIO()
        draw_layer(layer).savefig(stream, format="png", dpi=100, facecolor="white")
        drawn.append(Image.open(stream).convert("RGB"))
    row = Image.new("RGB", (sum(each.width for each in drawn), drawn[0].height), "white")
    left = 0
    for each in drawn:
        row.paste(each, (left, 0))
        left += each.width
    row.quantize(64).save(picture, optimize=True)


def photograph(page: Path, picture: Path) -> None:
    """The first screen of an HTML file."""
    flags = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1200,1000"]
    subprocess.run(
        [CHROMIUM, *flags, f"--screenshot={picture.resolve()}", page.resolve().as_uri()], check=True
    )
    Image.open(picture).convert("RGB").quantize(128).save(picture, optimize=True)


def main() -> None:
    """Make them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--to", type=Path, default=Path("docs/pictures"))
    arguments = parser.parse_args()
    to: Path = arguments.to
    to.mkdir(parents=True, exist_ok=True)
    for name, run in DIMENSIONS.items():
        draw_dimensions(arguments.runs / "ladder" / run, to / f"{name}.png")
    limelight = [sys.executable, "-m", "pipeline"]
    mnist = arguments.runs / "mnist"
    for command in (
        ["lr-find", "mnist", "--recipe", "simple-cnn-bn", "--out", f"{to}/lr-find.png"],
        ["inspect", str(mnist), "examples/seven.png", "--out", f"{to}/inspection.png"],
        ["report", str(mnist)],
    ):
        subprocess.run([*limelight, *command], check=True)
    photograph(mnist / "report.html", to / "report.png")


if __name__ == "__main__":
    main()
