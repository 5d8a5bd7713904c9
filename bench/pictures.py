"""The pictures of the README and of `docs/lessons.md`, made by the commands that the texts name.

`python -m bench.pictures` wants the runs of `limelight ladder simple-cnn simple-cnn-bn` and of
`limelight train mnist --out runs/mnist`. Pages are photographed by Debian's Chromium.
"""

import argparse
import io
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from pipeline.report.history import read_history
from pipeline.report.page import draw_layer
from service.settings import Settings
from tests.serving_kit import bentoml_serve

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
    page.get_by_text(re.compile(r"^cat, [\d.]+%")).wait_for()
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
    parser.add_argument("--models", action="store_true", help="only those that need no run")
    arguments = parser.parse_args()
    to: Path = arguments.to
    to.mkdir(parents=True, exist_ok=True)
    picture_models(to)
    if not arguments.models:
        picture_runs(arguments.runs, to)


def picture_models(to: Path) -> None:
    """The page and the overlays, by the models that ship."""
    limelight(f"explain examples/seven.png --model digits -o {to}/seven-explained.png")
    limelight(f"explain examples/cat.png --model cifar10 -o {to}/cat-explained.png")
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        served = Settings().models, Path(folder)
        with bentoml_serve(*served, LIMELIGHT_DEFAULT_MODEL="digits") as server:
            photograph_page(browser, server.url, to / "page.png")


def picture_runs(runs: Path, to: Path) -> None:
    """What the lessons show."""
    for name, run in DIMENSIONS.items():
        draw_dimensions(runs / "ladder" / run, to / f"{name}.png")
    limelight(f"lr-find mnist --recipe simple-cnn-bn --out {to}/lr-find.png")
    limelight(f"inspect {runs}/mnist examples/seven.png --out {to}/inspection.png")
    limelight(f"report {runs}/mnist")
    with chromium() as browser:
        photograph_report(browser, runs / "mnist" / "report.html", to / "report.png")


def limelight(arguments: str) -> None:
    """Run a command as a person would."""
    subprocess.run([sys.executable, "-m", "pipeline", *arguments.split()], check=True)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield browser
        browser.close()


if __name__ == "__main__":
    main()
