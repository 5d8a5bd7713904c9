"""The files below a folder of the user's own."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from pipeline.data.own_images.hidden_files import is_hidden
from pipeline.errors import DataError


def walk_files(root: Path) -> Iterator[Path]:
    """Yield each file below `root`; hidden files and folders are skipped.

    Links to folders are followed after all other folders, and each folder is listed once, so that a
    link back to where it lies is no loop.

    Raises:
        DataError: a folder cannot be listed.

    """
    starts, listed = [root], set[str]()
    for start in starts:  # which grows
        for folder, folders, names in os.walk(start, onerror=_reject):
            real = os.path.realpath(folder)
            if real in listed:
                folders.clear()
                continue
            listed.add(real)
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            inside = (Path(folder, name) for name in folders)
            starts += [path for path in inside if path.is_symlink()]
            yield from (Path(folder, name) for name in names if not is_hidden(name))


def list_entries(folder: Path) -> list[Path]:
    """List the files and folders in `folder`; hidden ones are skipped.

    Raises:
        DataError: it cannot be listed.

    """
    try:
        return [path for path in folder.iterdir() if not is_hidden(path.name)]
    except OSError as error:
        _reject(error)


def _reject(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename} cannot be listed: {error.strerror}") from error
