"""A user's folders that are called like this project's packages."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.cli.running import limelight_command

SCRIPT = "from pipeline.cli.main import main\nmain()\n"
"""The script that pip installs as `limelight`."""


def make_packages(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text('raise SystemExit("the user\'s own")')


def run(command: list[str], environment: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_packages_in_the_working_folder_are_not_imported_by_the_command(tmp_path: Path) -> None:
    make_packages(tmp_path, "limelight", "models", "pipeline", "service")
    _, environment = limelight_command(cwd=tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "limelight").write_text(SCRIPT)
    command = [sys.executable, "bin/limelight", "summary", "resnet"]
    assert "total" in run(command, environment, tmp_path)


@pytest.mark.parametrize("options", [[], ["-P"]])
def test_packages_in_the_working_folder_are_not_imported_by_python_m(
    tmp_path: Path, options: list[str]
) -> None:
    make_packages(tmp_path, "limelight", "models", "service")
    command, environment = limelight_command("summary", "resnet", cwd=tmp_path)
    assert "total" in run([command[0], *options, *command[1:]], environment, tmp_path)
