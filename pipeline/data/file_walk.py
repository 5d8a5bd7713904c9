"""The files below a folder of the user's own."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.data.hidden_files import is_hidden


def walk_files(root: Path, *, onerror: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Yield each file below `root`; hidden files and folders are skipped.

    Links to folders are followed after all other folders, and each folder is listed once, so that a
    link back to where it lies is no loop. `onerror` is told of a folder that cannot be listed.
    """
    starts, listed = [root], set[str]()
    for start in starts:  # which grows
        for folder, folders, names in os.walk(start, onerror=onerror):
            real = os.path.realpath(folder)
            if real in listed:
                folders.clear()
                continue
            listed.add(real)
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            inside = (Path(folder, name) for name in folders)
            starts += [path for path in inside if path.is_symlink()]
            yield from (Path(folder, name) for name in names if not is_hidden(name))
