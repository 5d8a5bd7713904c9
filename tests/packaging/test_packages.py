"""The distribution has every package of the tree, and the files that they read."""

import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.isolated import ROOT

SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_bill_of_materials_is_of_what_the_image_installs() -> None:
    found = re.search(r"^IMAGE_EXTRAS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    assert f"extra='[{found[1]}]'" in (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("root", ["limelight", "models", "pipeline", "service"])
def test_every_package_is_in_the_distribution(root: str) -> None:
    patterns = SETUPTOOLS["packages"]["find"]["include"]
    for file in (ROOT / root).rglob("__init__.py"):
        package = ".".join(file.parent.relative_to(ROOT).parts)
        assert any(fnmatch(package, pattern) for pattern in patterns), package


@pytest.mark.parametrize("root", ["pipeline", "service"])
def test_every_recipe_and_template_is_in_the_distribution(root: str) -> None:
    patterns = SETUPTOOLS["package-data"][root]
    for file in (ROOT / root).rglob("*"):
        if file.is_file() and file.suffix in (".toml", ".html", ".css", ".md", ".proto"):
            name = file.relative_to(ROOT / root).as_posix()
            assert any(fnmatch(name, pattern) for pattern in patterns), name


def test_script_beside_a_folder_of_the_same_name_imports_the_package(tmp_path: Path) -> None:
    (tmp_path / "limelight" / "docs").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", "import limelight; print(limelight.load)"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "function load" in done.stdout, done.stderr
