"""The README's Python examples, word for word, against the shipped models."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving_kit import REPOSITORY, bentoml_serve

BLOCKS = re.findall(r"```python\n(.+?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
PORT = "localhost:3000"


def run(code: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=REPOSITORY, check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def block_with(word: str) -> str:
    (found,) = [block for block in BLOCKS if word in block]
    return str(found)


def test_the_readme_has_two_examples_in_python() -> None:
    assert len(BLOCKS) == 2


def test_the_in_process_example_prints_the_class_and_the_explanation() -> None:
    lines = run(block_with("limelight.load")).splitlines()
    assert lines[0] == "cat"
    assert "'method': 'layercam'" in lines[1]


def test_the_client_example_prints_the_box_and_the_predictions(tmp_path: Path) -> None:
    code = block_with("with Client")
    assert code.count(PORT) == 1
    with bentoml_serve(REPOSITORY / "zoo", tmp_path, LIMELIGHT_WORKERS="1") as server:
        box, *predictions = run(code.replace(PORT, server.url.removeprefix("http://"))).splitlines()
    assert len(box.split(",")) == 4
    assert len(predictions) == len(list((REPOSITORY / "examples").glob("*.png")))


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) < 200


@pytest.mark.parametrize(
    "document", ["README.md", *(f"docs/{it.name}" for it in (REPOSITORY / "docs").glob("*.md"))]
)
def test_links_inside_the_repository_lead_somewhere(document: str) -> None:
    file = REPOSITORY / document
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text()):
        assert (file.parent / target).exists(), target
