"""The documented example of Triton's client, unchanged, with the shipped models."""

import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

from service.settings import Settings
from tests.serving_kit import REPOSITORY, bentoml_serve

PORT = "localhost:3000"


def test_documented_example_runs_and_prints_the_class(tmp_path: Path) -> None:
    blocks = re.findall(
        r"```python\n(.+?)```", (REPOSITORY / "docs/protocol.md").read_text(), re.DOTALL
    )
    (example,) = [block for block in blocks if "tritonclient" in block]
    lines = [line for line in example.splitlines() if line]
    assert len(lines) == 10, lines
    assert example.count(PORT) == 1
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    models = Settings.model_construct().models
    with bentoml_serve(
        models, tmp_path / "serve", LIMELIGHT_DEFAULT_MODEL="cifar10", LIMELIGHT_WORKERS="1"
    ) as server:
        # Unchanged except for the port, which may be in use on this machine.
        code = example.replace(PORT, server.url.removeprefix("http://"))
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    best, *others = re.findall(r"b'([\d.]+):(\d+):(\w+)'", done.stdout)
    assert best[1:] == ("3", "cat")
    assert len(others) == 2
    with (
        Image.open(tmp_path / "overlay.png") as overlay,
        Image.open(REPOSITORY / "examples" / "cat.png") as upload,
    ):
        assert overlay.size == upload.size
