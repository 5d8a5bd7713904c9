"""Failures of a command, a sentence each. An unforeseen one has a traceback, in a file."""

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Callable

from rich.markup import escape

from pipeline.console import console
from pipeline.errors import PipelineError

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

_REMEDIES = {
    errno.ENOTDIR: "a part of this path is a file: choose another path",
    errno.EEXIST: "this is a file: choose another path",
    errno.EACCES: "choose another path, or change who may use this one",
    errno.EROFS: "choose a path on another file system",
    errno.ENOSPC: "make room, or choose a path on another file system",
    errno.EDQUOT: "make room, or choose a path on another file system",
    errno.EFBIG: "raise the limit of a file's size, or choose a path on another file system",
}
"""What to do if a file or folder cannot be used, by the system's error number."""
_NAMELESS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of a write, which names no file."""


def run_command(command: Callable[[], None]) -> None:
    """Run `command`; a failure is said in a sentence, and ends the process with status 1."""
    try:
        command()
    except KeyboardInterrupt:
        _say("interrupted", style="bold")
        sys.exit(INTERRUPTED)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # as Typer ends a command that was interrupted
            _say("interrupted", style="bold")
        raise
    except Exception as error:
        # Of the processes that train together one speaks.
        if os.environ.get("RANK", "0") == "0":
            _say(f"error: {_sentence(error)}", style="bold red")
        sys.exit(1)


def _sentence(error: Exception) -> str:
    if isinstance(error, PipelineError):
        return str(error)
    if isinstance(error, OSError) and (error.filename is not None or error.errno in _NAMELESS):
        named = f"{error.filename}: " if error.filename is not None else ""
        remedy = _REMEDIES.get(error.errno or 0)
        return f"{named}{error.strerror}" + (f"; {remedy}" if remedy else "")
    said = str(error).strip().splitlines() or [""]
    return (
        f"{type(error).__name__}: {said[0][:500]}. Nobody foresaw this: the traceback is in "
        f"{_write_traceback(error)}"
    )


def _write_traceback(error: Exception) -> str:
    handle, path = tempfile.mkstemp(prefix="limelight-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(traceback.format_exception(error))
    return path


def _say(message: str, *, style: str) -> None:
    first, colon, rest = message.partition(":")
    console.print(
        f"[{style}]{escape(first + colon)}[/]{escape(rest)}", highlight=False, soft_wrap=True
    )
