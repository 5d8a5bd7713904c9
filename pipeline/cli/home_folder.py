"""`~` in the arguments of every command, which a shell leaves alone in quotes and after `=`."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def with_home_folder(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a leading `~` of the paths among a command's arguments by the home folder.

    A text may be a path, too: there `~/` and `~USER/` are replaced, but `~` alone stays.
    """

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        command(**{name: _expanded(value) for name, value in arguments.items()})

    return run


def _expanded(value: Any) -> Any:
    if isinstance(value, list):
        return [_expanded(each) for each in value]
    if isinstance(value, Path) and str(value).startswith("~"):
        return Path(_in_home(str(value)))
    if isinstance(value, str) and value.startswith("~") and "/" in value:
        return _in_home(value)
    return value


def _in_home(path: str) -> str:
    return os.path.expanduser(path)  # noqa: PTH111  # keeps `~` of an unknown user
