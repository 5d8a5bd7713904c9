"""Run the command line; `limelight` is fast, since torch is imported already."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock

from pipeline.cli import main as cli


def limelight_command(*arguments: str, cwd: Path) -> tuple[list[str], dict[str, str]]:
    """Return command line and environment of a new process that works in `cwd`."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cwd / "cache"), "COLUMNS": "200"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[3])}
    return [sys.executable, "-m", "pipeline", *arguments], environment


def limelight_process(*arguments: str, cwd: Path, **variables: str) -> CompletedProcess[str]:
    """Run `limelight` in `cwd` in a process of its own, whose warnings do not go to pytest."""
    command, environment = limelight_command(*arguments, cwd=cwd)
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def limelight(*arguments: str, cwd: Path) -> CompletedProcess[str]:
    """Run `limelight` in `cwd` by its entry point, in this process, and return its output."""
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
