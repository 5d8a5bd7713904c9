"""The pictures of the README and of `docs/lessons.md`, made by the commands that the texts name.

`python -m bench.pictures` wants the runs of `limelight ladder simple-cnn simple-cnn-bn` and of
`limelight train mnist --out runs/mnist`. Pages are photographed by Debian's Chromium.
"""

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from pipeline.report.history import read_history
from pipeline.report.page import draw_layer
from service.settings import Settings
from tests.service.kit import bentoml_serve

DIMENSIONS = {
    "simple-cnn-constant": "simple-cnn-constant-0.06-batches-of-512/seed-1",
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


def photograph_report(browser: Browser, report: Path, picture: Path) -> None:
    """The first screen of a report."""
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    page.goto(report.resolve().as_uri())
    _shoot(page.screenshot(), picture)


def photograph_page(browser: Browser, url: str, picture: Path) -> None:
    """The service's page with the example photograph on it."""
    page = browser.new_page(viewport={"width": 1060, "height": 860})
    page.goto(url)
    page.get_by_role("button", name="A cat").click()
    page.get_by_text("cat, 9").wait_for()
    page.mouse.move(5, 5)
    page.evaluate("scrollTo(0, 0)")
    _shoot(page.screenshot(), picture)


def _shoot(screenshot: bytes, picture: Path) -> None:
    image = Image.open(io.BytesIO(screenshot)).convert("RGB")
    image.quantize(200, dither=Image.Dither.NONE).save(picture, optimize=True)


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
    mnist = str(arguments.runs / "mnist")
    for command in (
        f"lr-find mnist --recipe simple-cnn-bn --out {to}/lr-find.png",
        f"inspect {mnist} examples/seven.png --out {to}/inspection.png",
        f"explain examples/seven.png --model digits -o {to}/seven-explained.png",
        f"explain examples/cat.png --model cifar10 -o {to}/cat-explained.png",
        f"report {mnist}",
    ):
        subprocess.run([sys.executable, "-m", "pipeline", *command.split()], check=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        photograph_report(browser, Path(mnist) / "report.html", to / "report.png")
        with bentoml_serve(
            Settings().models, Path(folder), LIMELIGHT_DEFAULT_MODEL="digits"
        ) as server:
            photograph_page(browser, server.url, to / "page.png")
        browser.close()


if __name__ == "__main__":
    main()
