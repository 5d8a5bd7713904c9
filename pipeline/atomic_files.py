"""Write files that are whole at every moment, even if the process is killed or the disk is full."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PipelineError

_ADVICE = "make room, or choose another folder"


class UnwritableError(PipelineError):
    """A file or folder cannot be written, as on a full disk; a whole file is as it was before."""

    def __init__(self, path: Path, reason: Exception | str, advice: str = _ADVICE) -> None:
        said = (isinstance(reason, OSError) and reason.strerror) or reason
        super().__init__(f"{path} cannot be written: {said}; {advice}")
        self.path, self.reason = path, reason


@contextmanager
def writing(path: Path, advice: str = _ADVICE) -> Iterator[None]:
    """Turn an OSError of the block, which writes `path`, into an error that says what to do.

    Raises:
        UnwritableError: with the reason and the `advice`.

    """
    try:
        yield
    except OSError as error:
        raise UnwritableError(path, error, advice) from error


@contextmanager
def replacing(file: Path, suffix: str = ".part") -> Iterator[Path]:
    """Give the path of a new file to write, which replaces `file` when the context ends.

    If the context raises, `file` stays as it was and the new file is deleted. Processes that may
    write the same file at once each need a `suffix` of their own.

    Raises:
        OSError: the new file cannot be written, as on a full disk.

    """
    part = file.with_name(file.name + suffix)
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(file)
    finally:
        if part.is_file():
            part.unlink()


@contextmanager
def new_file(file: Path, advice: str) -> Iterator[Path]:
    """Give the path of a new file to write, as `replacing`, and make the folder of `file`.

    Several processes may write the same file at once.

    Raises:
        UnwritableError: it cannot be written; with the `advice`.

    """
    with writing(file, advice):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file, f".{os.getpid()}.part") as part:
            yield part


def write_text(file: Path, text: str) -> None:
    """Replace `file` by `text`, or leave it as it was.

    Raises:
        UnwritableError: the text cannot be written.

    """
    with writing(file), replacing(file) as part:
        part.write_text(text, encoding="utf-8")
