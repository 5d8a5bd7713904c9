"""Commands to paste into a shell, warnings, and tables in a pipe."""

import logging
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.console import LogHandler, next_command

PRINT_ARGUMENTS = "import os, sys; print(ascii([*sys.argv[1:], os.environ.get('MODELS')]))"


@pytest.mark.parametrize(
    "name", ["plain", "my runs", "Grün", "it's", 'a"b', "$HOME", "*", "a;b", "`id`", "über's $1"]
)
def test_pasted_command_has_the_words_it_was_made_of(name: str) -> None:
    line = next_command(sys.executable, "-c", PRINT_ARGUMENTS, "export", Path(name), MODELS=name)
    printed = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=True).stdout
    assert printed.decode().strip() == ascii(["export", name, name])


def test_plain_words_are_not_quoted() -> None:
    line = next_command("limelight", "export", Path("runs/mine"), "--to", "zoo", MODELS=Path("a"))
    assert line == "MODELS=a limelight export runs/mine --to zoo"


@pytest.mark.parametrize("name", ["-run", "~", "~/run"])
def test_path_is_neither_an_option_nor_a_home_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    *_, written = shlex.split(next_command("limelight", "export", Path(name)))
    assert written == str(tmp_path / name)


def test_warning_is_one_line_with_its_names_intact(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.Logger("photos")
    logger.addHandler(LogHandler())
    name = f"{'long/' * 40}[/x] [bold]🙂[/bold].png"
    logger.warning("skipped %s", name)
    assert capsys.readouterr().err == f"warning: skipped {name}\n"
