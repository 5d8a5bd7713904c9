"""The pictures of the README, made by the models that ship.

`python -m bench.pictures` draws the overlays as a person would, and lets Debian's Chromium
photograph the service's page. The pictures of `docs/lessons.md` come from the commands that stand
beside them there.
"""

import argparse
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from bench.common.server import limelight

OVERLAYS = {"seven": "digits", "cat": "cifar10"}
"""Models by the example picture that they explain."""


def photograph_page(url: str, picture: Path) -> None:
    """The service's page with the example photograph on it."""
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1060, "height": 860})
        page.goto(url)
        page.get_by_role("button", name="A cat").click()
        page.get_by_text(re.compile(r"^cat, [\d.]+%")).wait_for()
        page.mouse.move(5, 5)
        page.evaluate("scrollTo(0, 0)")
        image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        image.quantize(200, dither=Image.Dither.NONE).save(picture, optimize=True)
        browser.close()


def main() -> None:
    """Make them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=Path("docs/pictures"))
    to: Path = parser.parse_args().to
    to.mkdir(parents=True, exist_ok=True)
    for name, model in OVERLAYS.items():
        command = [sys.executable, "-m", "pipeline", "explain", f"examples/{name}.png"]
        picture = str(to / f"{name}-explained.png")
        subprocess.run([*command, "--model", model, "-o", picture], check=True)
    with limelight({"LIMELIGHT_DEFAULT_MODEL": "digits"}) as server:
        photograph_page(f"http://127.0.0.1:{server.port}", to / "page.png")


if __name__ == "__main__":
    main()
