"""Claim of a run folder: one process at a time writes into it."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline.atomic_files import UnwritableError
from pipeline.errors import RunError
from pipeline.runs.folder_lock import locked
from pipeline.runs.run_folder import CONFIG


def check_new(folder: Path) -> None:
    """Check that a new run can begin in `folder`.

    Raises:
        RunError: it is not empty.
    """
    if folder.is_dir() and any(folder.iterdir()):
        further = f", or continue it: --resume {folder}" if (folder / CONFIG).is_file() else ""
        raise RunError(f"{folder} is not empty; choose another --out{further}")


@contextmanager
def claimed(folder: Path, *, new: bool) -> Iterator[None]:
    """Keep other processes out of a run folder, from before the slow work to the end.

    A new folder is made, and goes again with its parents if nothing was written.

    Raises:
        RunError: another process trains in it; a new one is not empty, or has a name that is not
            UTF-8, with which a run cannot be read.
        UnwritableError: it cannot be written.

    """
    if new:
        check_new(folder)
        try:
            str(folder).encode()
        except UnicodeEncodeError as error:
            raise RunError(f"{str(folder)!a} is not UTF-8; choose another --out") from error
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.callback(_remove_empty, made)
            (folder / ".writable").touch()
            (folder / ".writable").unlink()
            stack.enter_context(locked(folder))
        except BlockingIOError as error:
            raise RunError(
                f"another process trains in {folder}: wait for it, or choose another --out"
            ) from error
        except OSError as error:
            raise UnwritableError(folder, error, "choose another --out") from error
        yield


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
