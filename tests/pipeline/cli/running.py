"""The command line as a person uses it; `limelight` is quick, since torch is there already."""

import contextlib
import io
import os
import sys
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock

from pipeline.cli import main as cli


def limelight_command(*arguments: str, cwd: Path) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment of a person who works in `cwd`, for a new process."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cwd / "cache"), "COLUMNS": "200"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[3])}
    return [sys.executable, "-m", "pipeline", *arguments], environment


def limelight(*arguments: str, cwd: Path) -> CompletedProcess[str]:
    """What `limelight` does and prints in `cwd`, by its own entry point but in this process."""
    _, environment = limelight_command(cwd=cwd)
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with (
        contextlib.chdir(cwd),
        mock.patch.dict(os.environ, environment),
        mock.patch.object(sys, "argv", ["limelight", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return CompletedProcess(list(arguments), status, out.getvalue(), err.getvalue())
